"""Relevance as a modified backward pass: every operation deals out what arrives at it by its own rule.

`autograd.grad` does the rest: it runs the operations backwards and adds up where a tensor was read twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from glasshouse.attribute.relevance.kinds import CONVOLUTION, KINDS
from glasshouse.attribute.relevance.ledger import Entry, Ledger, total
from glasshouse.attribute.relevance.policy import Policy
from glasshouse.attribute.relevance.rules import Rule, Share, Shares
from glasshouse.attribute.relevance.sums import Weighted, book, divide, kept_back, shared, taken_apart
from glasshouse.core.attention import dot_product_attention, multi_head_attention
from glasshouse.core.errors import BadModel
from glasshouse.core.flow import Flow, Operation, is_signal, note_of, rewired, vector_jacobian
from glasshouse.core.rewrites import Same


class Relevance(Flow):
    """Deals out relevance under a policy.

    After the forward pass `met` names the rules that apply. `instead` then replaces the shares of single weighted sums,
    and `used` says of which.
    """

    def __init__(self, policy: Policy, ledger: Ledger | None = None):
        super().__init__()
        self.policy, self.ledger = policy, ledger
        self.met: set[str] = set()
        self.instead: Mapping[Operation, Shares] = {}
        self.used: set[Operation] = set()
        self.seen_first = False

    def handle(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        kind = KINDS.get(operation.name, "strange")
        return getattr(self, kind)(operation, signals)

    def move(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        return None

    def join(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """The gradient; with books, what goes to constants is written down."""
        if self.ledger is None:
            return None
        entry, kept = self.open(operation), [self.keep(signal) for signal in signals]

        def back(arriving: Tensor) -> Sequence[Tensor]:
            values = [each.value for each in kept]
            given = vector_jacobian(operation, values)[1](arriving)
            own = operation(*map(torch.ones_like, values)) - operation(*map(torch.zeros_like, values))
            assert entry is not None
            entry.bias += total((1 - own.nan_to_num(0.0)) * arriving)  # a constant may be infinite
            entry.write(arriving, given)
            return given

        return self.rewire(operation, signals, back)

    def passing(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """All of it to the one input."""
        if len(signals) > 1:
            return self.strange(operation, signals)
        return self.to_one(operation, signals, 0)

    def to_one(self, operation: Operation, signals: tuple[Tensor, ...], chosen: int) -> Tensor:
        shape = signals[chosen].shape

        def back(arriving: Tensor) -> Sequence[Tensor | None]:
            given = list[Tensor | None]([None] * len(signals))
            given[chosen] = arriving.sum_to_size(shape)
            return given

        return self.rewire(operation, signals, back)

    def scale(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """Products element by element: constants and gates scale the other factor; two equals get half each."""
        if operation.name == "div":
            return self.to_one(operation, signals, 0) if operation.places[0] == 0 else self.strange(operation, signals)
        if len(signals) == 1:
            return self.to_one(operation, signals, 0)
        gate = self.gate_among(signals)
        if gate is not None:
            return self.to_one(operation, signals, 1 - gate)
        shapes = [signal.shape for signal in signals]

        def back(arriving: Tensor) -> Sequence[Tensor]:
            return [(arriving / 2).sum_to_size(shape) for shape in shapes]

        return self.rewire(operation, signals, back)

    def gate_among(self, signals: tuple[Tensor, ...]) -> int | None:
        """Which of two factors weighs the other: the smaller one, or the one that a sigmoid made."""
        first, second = (signal.numel() for signal in signals)
        if first != second:
            return int(second < first)
        gates = [place for place, signal in enumerate(signals) if self.is_gate(signal)]
        return gates[0] if len(gates) == 1 else None

    def is_gate(self, signal: Tensor) -> bool:
        note = note_of(signal)
        return isinstance(note, Operation) and note.name in self.policy.gates

    def sums(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """In proportion to each input. What is subtracted excites nothing."""
        if self.policy.excitation and operation.name == "sub" and len(signals) == 2:
            return self.to_one(operation, signals, 0)
        if operation.name in ("addcmul", "lerp") and len(signals) > 1:  # products of signals among them
            return self.strange(operation, signals)
        return self.proportional(operation, signals)

    def proportional(self, operation: Operation, signals: tuple[Tensor, ...], factors: int = 1) -> Tensor:
        """`x * J^T (R / (factors z))`: to each input what it contributed; constants keep theirs.

        Euler: for a function of degree d, `sum_i x_i df/dx_i = d f`.
        """
        entry, kept = self.open(operation), [self.keep(signal) for signal in signals]
        excitation = self.policy.excitation
        signed = not excitation or (operation.name == "add" and self.policy.residual == "signed")

        def back(arriving: Tensor) -> Sequence[Tensor]:
            values = [each.value if signed else each.value.clamp(min=0) for each in kept]
            z, pull = vector_jacobian(operation, values)
            offset = None
            if len(values) == 1 and (excitation or entry):
                offset = operation(torch.zeros_like(values[0]))
                z = z - offset if excitation else z
            ratio = divide(arriving, factors * z, self.policy.epsilon)
            given = [value * share for value, share in zip(values, pull(ratio), strict=True)]
            if entry:
                if offset is not None and not excitation:
                    entry.bias += total((offset * ratio).nan_to_num(0.0))
                entry.stabiliser += kept_back(arriving, factors * z, ratio, self.policy.epsilon)
                entry.write(arriving, given)
            return given

        return self.rewire(operation, signals, back)

    def product(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """A matrix product with a constant is a linear layer; of two signals, half goes to each (or all past a gate).

        Achtibat et al., "AttnLRP", ICML 2024, prop. 3.3.
        """
        if len(signals) == 1:
            return self.weighted(operation, signals)
        if len(signals) > 2:
            return self.strange(operation, signals)
        gates = [place for place, signal in enumerate(signals) if self.is_gate(signal)]
        if len(gates) != 1:
            return self.proportional(operation, signals, factors=2)
        args, kwargs = operation.arguments([each.detach() if n == gates[0] else each for n, each in enumerate(signals)])
        gated = Operation.of(operation.function, args, kwargs, operation.layer)
        return self.proportional(gated, (signals[1 - gates[0]],))

    def softmax(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """Taylor's first order: `R_i = x_i (R_i - s_i sum_j R_j)` (Achtibat et al., ICML 2024, prop. 3.1)."""
        args, kwargs = operation.arguments(signals)
        axis = kwargs["dim"] if "dim" in kwargs else args[1]
        value = computed(operation, signals)
        entry, kept, result = self.open(operation), self.keep(signals[0]), self.keep(value)

        def back(arriving: Tensor) -> Sequence[Tensor]:
            wide = torch.promote_types(arriving.dtype, torch.float32)
            s, arriving = result.value.to(wide), arriving.to(wide)
            x = kept.value.to(wide).masked_fill(s == 0, 0)  # minus infinity, where attention is masked
            given = x * (arriving - s * arriving.sum(axis, keepdim=True))
            if entry:
                entry.bias += total((1 - x + (s * x).sum(axis, keepdim=True)) * arriving)
                entry.write(arriving, [given])
            return [given]

        return self.rewire(operation, signals, back, value)

    def batch_norm(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """Folded into the weighted sum that it follows; alone, an affine operation of its own, or passed."""
        args, _ = operation.arguments(signals)
        if True in args[5:6]:
            return self.strange(operation, signals)
        note = note_of(signals[0])
        if isinstance(note, Weighted) and "transpose" not in note.operation.name:
            return self.folded(note, operation, computed(operation, signals))
        if self.policy.bn == "pass":
            return self.to_one(operation, signals, 0)
        return self.proportional(operation, signals)

    def folded(self, note: Weighted, operation: Operation, value: Tensor) -> Tensor:
        """A weighted sum and the norm behind it as one weighted sum."""
        one = torch.ones(1, len(note.weight), *[1] * (value.ndim - 2), dtype=value.dtype, device=value.device)
        shift = operation(torch.zeros_like(one))
        factor = (operation(one) - shift).flatten()
        weight = note.weight * factor.view(-1, *[1] * (note.weight.ndim - 1))
        bias = shift.flatten() if note.bias is None else note.bias * factor + shift.flatten()
        return self.deal(replace(note, weight=weight, bias=bias), value)

    def weighted(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """Convolutions, linear layers and products with constant matrices."""
        parts = taken_apart(operation, signals)
        if parts is None:
            return self.strange(operation, signals)
        source, kept = Same.apply(signals[0]), self.keep(signals[0])
        return self.deal(Weighted(operation, source, kept, *parts, self.rule_for(operation)))

    def rule_for(self, operation: Operation) -> Rule:
        kind = "convolution" if operation.name in CONVOLUTION else "linear"
        first, self.seen_first = not self.seen_first, True
        rules = self.policy.rules
        named = [key for key in rules if key not in ("first", "convolution", "linear")]
        chosen = next((key for key in named if fnmatchcase(operation.layer, key)), None)
        if chosen is None:
            chosen = "first" if first and "first" in rules else kind
        self.met.add(chosen)
        return rules[chosen]

    def deal(self, note: Weighted, value: Tensor | None = None) -> Tensor:
        """Deal out the relevance of a weighted sum by its rule. `value` is its result, where that is known."""
        rule = note.rule
        if rule.shares is None:
            return self.deal_whole(note, value)
        if value is None:
            with torch.no_grad():
                value = note.apply(note.kept.value, note.weight, note.bias)
        entry, epsilon, shares = self.open(note.operation), self.epsilon(rule), rule.shares
        result = self.keep(value) if rule.reads_output else None
        apply, kept, weight, bias, operation = note.apply, note.kept, note.weight, note.bias, note.operation

        def back(arriving: Tensor) -> Sequence[Tensor]:
            given, spent = list[Tensor](), list[Tensor]()
            if operation in self.instead:
                self.used.add(operation)
            deal = self.instead.get(operation, shares)
            for share in deal(kept.value, weight, bias, None if result is None else result.value):
                spent.append(arriving if share.amount is None else share.amount * arriving)
                z, ratio, part = shared(share, apply, spent[-1], epsilon)
                given.append(part)
                if entry:
                    book(entry, share, apply, spent[-1], z, ratio, epsilon)
            if entry:
                entry.stabiliser += total(arriving - sum(spent[1:], spent[0]))
                entry.write(arriving, given)
            return [sum(given[1:], given[0])]

        return rewired(value, back, note, note.source)

    def deal_whole(self, note: Weighted, value: Tensor | None) -> Tensor:
        """The epsilon rule, which needs no other pass forward than the model's own."""
        made, pull = vector_jacobian(lambda x: note.apply(x, note.weight, note.bias), [note.kept.value])
        value = made if value is None else value
        entry, epsilon, result = self.open(note.operation), self.epsilon(note.rule), self.keep(value)
        kept, share, apply = note.kept, Share(((note.kept.value, note.weight),), note.bias), note.apply

        def back(arriving: Tensor) -> Sequence[Tensor]:
            ratio = divide(arriving, result.value, epsilon)
            given = kept.value * pull(ratio)[0]
            if entry:
                book(entry, share, apply, arriving, result.value, ratio, epsilon)
                entry.write(arriving, [given])
            return [given]

        return rewired(value, back, note, note.source)

    def epsilon(self, rule: Rule) -> float:
        return self.policy.epsilon if rule.epsilon is None else rule.epsilon

    def addition_of_product(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """`addmm` and `baddbmm` as an addition and a product."""
        (term, left, right), options = operation.arguments(signals)
        with self:
            return torch.add(term * options.get("beta", 1), torch.matmul(left, right) * options.get("alpha", 1))

    def attention(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        args, kwargs = operation.arguments(signals)
        with self:
            return dot_product_attention(*args, **kwargs)

    def multi_head_attention(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        args, kwargs = operation.arguments(signals)
        with self:
            return multi_head_attention(*args, **kwargs)

    def strange(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """An operation without a rule: an error, but only once relevance arrives at it."""
        if self.policy.others == "gradient":
            return None
        place = f" in '{operation.layer}'" if operation.layer else ""

        def back(arriving: Tensor) -> Sequence[Tensor]:
            if arriving.any():
                raise BadModel(
                    f"there is no relevance rule for {operation.name}{place}.",
                    "Give others='gradient' to let the plain gradient through it.",
                )
            return [arriving]

        def tripwire(leaf: Any) -> Any:
            return rewired(leaf.detach(), back, operation, leaf) if is_signal(leaf) else leaf

        return tree_map(tripwire, operation(*signals))

    def open(self, operation: Operation) -> Entry | None:
        return None if self.ledger is None else self.ledger.open(operation.name, operation.layer)


def computed(operation: Operation, signals: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return operation(*signals)
