"""Where the methods of `attribute` stand: which part of an input led to this answer."""

from dataclasses import replace

from glasshouse.evaluate.taxonomy.specs import Access, Architecture, Control, MethodSpec

CNN: frozenset[Architecture] = frozenset({"cnn"})
VIT: frozenset[Architecture] = frozenset({"vit"})
INSIDE: frozenset[Access] = frozenset({"forward", "gradient", "activations"})
RULES: frozenset[Access] = frozenset({"forward", "gradient", "weights"})

SAME_FOR_EVERY_CLASS = Control("class_sensitivity", "fails")
ABOUT_THE_CLASS = Control("class_sensitivity", "passes")
DRAWS_THE_IMAGE = Control("image_recovery", "fails")
ADDS_UP = Control("completeness_gap", "passes")

PIXELS = MethodSpec("processing.salience", "heatmap", "pixel")
REGIONS = MethodSpec("processing.salience", "heatmap", "region")
MASK = MethodSpec("processing.salience", "mask", "region")
PROXY = MethodSpec("processing.linear_proxy", "heatmap", "region")
ATTENTION = MethodSpec("producing.attention", "heatmap", "region", access=INSIDE)
UNITS = MethodSpec("processing.salience", "ranked_units", "neuron", access=INSIDE, evaluations=("ablation_damage",))

NIE = "Nie, Zhang & Patel, ICML 2018"
ADEBAYO = "Adebayo et al., NeurIPS 2018"
SIXT = "Sixt et al., ICML 2020"

ATTRIBUTING: dict[str, MethodSpec] = {
    "attribute.saliency": replace(
        PIXELS, peers=("captum.attr.Saliency", "torchray.attribution.gradient.gradient"), cites=(ADEBAYO,)
    ),
    "attribute.input_x_gradient": replace(PIXELS, controls=(ABOUT_THE_CLASS,), peers=("captum.attr.InputXGradient",)),
    "attribute.integrated_gradients": replace(
        PIXELS,
        controls=(ADDS_UP, ABOUT_THE_CLASS),
        peers=("captum.attr.IntegratedGradients", "zennit.attribution.IntegratedGradients"),
        cites=(ADEBAYO, "Sturmfels, Lundberg & Lee, Distill 2020"),
    ),
    "attribute.expected_gradients": replace(
        PIXELS, controls=(ADDS_UP,), peers=("captum.attr.GradientShap", "shap.GradientExplainer")
    ),
    "attribute.deep_lift": replace(
        PIXELS,
        controls=(ADDS_UP, ABOUT_THE_CLASS),
        peers=("captum.attr.DeepLift",),
        cites=("Ancona et al., ICLR 2018",),
    ),
    "attribute.smooth": replace(PIXELS, peers=("captum.attr.NoiseTunnel", "zennit.attribution.SmoothGrad")),
    "attribute.lrp": replace(
        PIXELS, access=RULES, peers=("zennit.composites.EpsilonPlus", "captum.attr.LRP"), cites=(SIXT,)
    ),
    "attribute.guided_backprop": replace(
        PIXELS,
        models=CNN,
        controls=(SAME_FOR_EVERY_CLASS, DRAWS_THE_IMAGE),
        peers=("captum.attr.GuidedBackprop", "zennit.composites.GuidedBackprop"),
        cites=(NIE, ADEBAYO, SIXT),
    ),
    "attribute.deconvnet": replace(
        PIXELS,
        models=CNN,
        peers=("captum.attr.Deconvolution", "zennit.composites.DeconvNet"),
        cites=(NIE, SIXT),
    ),
    "attribute.guided_grad_cam": replace(
        PIXELS, models=CNN, peers=("captum.attr.GuidedGradCam",), cites=(NIE, ADEBAYO)
    ),
    "attribute.excitation_backprop": replace(
        REGIONS,
        access=INSIDE | RULES,
        peers=(
            "torchray.attribution.excitation_backprop.excitation_backprop",
            "zennit.composites.ExcitationBackprop",
        ),
        cites=(SIXT,),
    ),
    "attribute.contrastive_excitation_backprop": replace(
        REGIONS,
        access=INSIDE | RULES,
        peers=("torchray.attribution.excitation_backprop.contrastive_excitation_backprop",),
    ),
    "attribute.cam": replace(
        REGIONS,
        models=CNN,
        access=frozenset({"forward", "activations", "weights"}),
        controls=(ABOUT_THE_CLASS,),
        peers=("torchcam.methods.CAM",),
    ),
    "attribute.grad_cam": replace(
        REGIONS,
        controls=(ABOUT_THE_CLASS,),
        peers=("pytorch_grad_cam.GradCAM", "torchcam.methods.GradCAM", "captum.attr.LayerGradCam"),
        cites=(ADEBAYO,),
    ),
    "attribute.grad_cam_pp": replace(
        REGIONS,
        peers=("pytorch_grad_cam.GradCAMPlusPlus", "torchcam.methods.GradCAMpp"),
        cites=("Lerma & Lucas, 2022",),
    ),
    "attribute.xgrad_cam": replace(
        REGIONS,
        controls=(ABOUT_THE_CLASS,),
        peers=("pytorch_grad_cam.XGradCAM", "torchcam.methods.XGradCAM"),
    ),
    "attribute.hires_cam": replace(REGIONS, controls=(ABOUT_THE_CLASS,), peers=("pytorch_grad_cam.HiResCAM",)),
    "attribute.layer_cam": replace(REGIONS, peers=("pytorch_grad_cam.LayerCAM", "torchcam.methods.LayerCAM")),
    "attribute.grad_cam_elementwise": replace(REGIONS, peers=("pytorch_grad_cam.GradCAMElementWise",)),
    "attribute.score_cam": replace(
        REGIONS,
        effort="1 F, and 1 F per unit of the layer",
        peers=("pytorch_grad_cam.ScoreCAM", "torchcam.methods.ScoreCAM"),
    ),
    "attribute.ablation_cam": replace(
        REGIONS,
        effort="1 F, and part of one per unit",
        peers=("pytorch_grad_cam.AblationCAM",),
    ),
    "attribute.eigen_cam": replace(REGIONS, controls=(SAME_FOR_EVERY_CLASS,), peers=("pytorch_grad_cam.EigenCAM",)),
    "attribute.linear_approximation": replace(
        REGIONS, controls=(ABOUT_THE_CLASS,), peers=("torchray.attribution.linear_approx.linear_approx",)
    ),
    "attribute.spatial_attribution": replace(
        REGIONS, controls=(ABOUT_THE_CLASS,), peers=("captum.attr.LayerGradientXActivation",)
    ),
    "attribute.occlusion": replace(REGIONS, controls=(ABOUT_THE_CLASS,), peers=("captum.attr.Occlusion",)),
    "attribute.token_occlusion": replace(
        REGIONS, access=frozenset({"forward", "activations"}), effort="1 F, and 1 F per window"
    ),
    "attribute.rise": replace(REGIONS, peers=("torchray.attribution.rise.rise",)),
    "attribute.meaningful_perturbation": MASK,
    "attribute.extremal_perturbation": replace(
        MASK, peers=("torchray.attribution.extremal_perturbation.extremal_perturbation",)
    ),
    "attribute.smallest_area": MASK,
    "attribute.lime": replace(
        PROXY, peers=("lime.lime_image.LimeImageExplainer", "captum.attr.Lime"), cites=("Slack et al., AIES 2020",)
    ),
    "attribute.kernel_shap": replace(
        PROXY,
        peers=("shap.KernelExplainer", "captum.attr.KernelShap"),
        cites=("Covert & Lee, AISTATS 2021", "Slack et al., AIES 2020"),
    ),
    "attribute.attention_rollout": replace(
        ATTENTION, controls=(SAME_FOR_EVERY_CLASS,), cites=("Jain & Wallace, NAACL 2019",)
    ),
    "attribute.attention_relevance": replace(ATTENTION, cites=("Jain & Wallace, NAACL 2019",)),
    "attribute.channel_attribution": replace(
        UNITS, peers=("captum.attr.LayerGradientXActivation", "captum.attr.LayerIntegratedGradients")
    ),
    "attribute.channel_extremal_perturbation": replace(UNITS, effort="1 F, and part of one and back per step and area"),
    "attribute.conservation": MethodSpec("processing.salience", "score", "layer", access=RULES),
}
