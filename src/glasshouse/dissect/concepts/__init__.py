"""Concepts as directions in a layer: of several units, of classifiers, of classes."""
