"""Backbones of KerasHub that see images."""

from tests.kerashub_models.building import backbone, hub

IMAGE, LARGE = (32, 32, 3), (64, 64, 3)
MOBILENET = {
    "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
    "stackwise_num_blocks": [2, 3, 2, 3],
    "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
    "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    "stackwise_se_ratio": [[None, None], [0.25] * 3, [0.3] * 2, [0.3, 0.25, 0.25]],
    "stackwise_activation": [["relu"] * 2, *(["hard_swish"] * n for n in (3, 2, 3))],
    "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
    "output_num_filters": 288,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "input_num_filters": 16,
    "image_shape": LARGE,
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "last_layer_filter": 64,
    "squeeze_and_excite": 0.5,
}
EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3, 5],
    "stackwise_num_repeats": [1, 2, 2],
    "stackwise_input_filters": [16, 16, 24],
    "stackwise_output_filters": [16, 24, 32],
    "stackwise_expansion_ratios": [1, 4, 4],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2],
    "stackwise_block_types": ["fused", "unfused", "unfused"],
    "stackwise_width_coefficients": [1.0] * 3,
    "stackwise_depth_coefficients": [1.0] * 3,
    "stackwise_force_input_filters": [0] * 3,
    "stackwise_nores_option": [False] * 3,
    "num_features": 64,
    "input_shape": LARGE,
}
CSPNET = {
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stem_padding": "same",
    "stackwise_depth": [1, 2, 2],
    "stackwise_strides": [1, 2, 2],
    "stackwise_num_filters": [8, 16, 32],
    "block_type": "dark_block",
    "stage_type": "csp",
    "bottle_ratio": [0.5],
    "block_ratio": [1.0],
    "expand_ratio": [2.0],
    "image_shape": IMAGE,
}
VIT = {"image_shape": IMAGE, "num_layers": 2, "num_heads": 4, "hidden_dim": 32}


def resnet(**changes):
    arguments = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 32, 48],
        "stackwise_num_blocks": [2, 2, 2],
        "stackwise_num_strides": [1, 2, 2],
        "block_type": "basic_block",
        "image_shape": LARGE,
    }
    return hub().models.ResNetBackbone(**{**arguments, **changes})


def hgnet(**changes):
    arguments = {
        "depths": [1, 1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 32, 64],
        "stem_channels": [3, 8, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [
            (8, 8, 16, 1, 1, 3),
            (16, 8, 32, 1, 2, 3),
            (32, 16, 64, 1, 2, 3),
        ],
        "apply_downsample": [False, True, True],
        "use_lightweight_conv_block": [False, False, True],
        "image_shape": LARGE,
    }
    return hub().models.HGNetV2Backbone(**{**arguments, **changes})


def dfine():
    stages = ["stage3", "stage4"]
    inner = hgnet(
        depths=[1] * 4,
        hidden_sizes=[16, 32, 64, 64],
        use_learnable_affine_block=True,
        stackwise_stage_filters=[
            [8, 8, 16, 1, 1, 3],
            [16, 8, 32, 1, 1, 3],
            [32, 16, 64, 1, 1, 3],
            [64, 16, 64, 1, 1, 3],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True],
        data_format="channels_last",
        out_features=stages,
    )
    return hub().models.DFineBackbone(
        backbone=inner,
        decoder_in_channels=[32, 32],
        encoder_hidden_dim=32,
        num_denoising=0,
        num_labels=4,
        hidden_dim=32,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(64, 64),
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_in_channels=[64, 64],
        encode_proj_layers=[1],
        num_attention_heads=4,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.34,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=32,
        decoder_n_points=[4, 4],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=stages,
        image_shape=LARGE,
        data_format="channels_last",
        seed=0,
    )


def mit():
    return hub().models.MiTBackbone(
        image_shape=IMAGE,
        num_layers=2,
        hidden_dims=[16, 32],
        layerwise_depths=[2, 2],
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        max_drop_path_rate=0.1,
    )


def vitdet():
    return hub().models.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=64,
        num_heads=4,
        global_attention_layer_indices=[1],
        patch_size=4,
        num_output_channels=8,
        window_size=2,
        image_shape=IMAGE,
    )


def sam():
    layers = hub().layers
    return hub().models.SAMBackbone(
        image_encoder=vitdet(),
        prompt_encoder=layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(8, 8),
            input_image_size=(32, 32),
            mask_in_channels=16,
        ),
        mask_decoder=layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=8,
            intermediate_dim=32,
            num_heads=4,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=8,
        ),
    )


def two_towers(name, **arguments):
    models = hub().models
    vision, text = (getattr(models, f"{name}{kind}Encoder") for kind in ("Vision", "Text"))
    sizes = {"hidden_dim": 32, "num_layers": 2, "num_heads": 4, "intermediate_dim": 64}
    return getattr(models, f"{name}Backbone")(
        vision_encoder=vision(patch_size=8, image_shape=IMAGE, **sizes),
        text_encoder=text(vocabulary_size=50, embedding_dim=32, max_sequence_length=8, **sizes),
        **arguments,
    )


def vae():
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    return VAEBackbone(
        encoder_num_filters=[32, 32, 64],
        encoder_num_blocks=[1, 1, 1],
        decoder_num_filters=[64, 32, 32],
        decoder_num_blocks=[1, 1, 1],
        sampler_method="mode",
        input_channels=3,
        image_shape=IMAGE,
    )


IMAGE_BACKBONES = {
    "ResNet": resnet,
    "ResNet bottleneck": lambda: resnet(block_type="bottleneck_block", use_pre_activation=True),
    "ResNet-vd": lambda: resnet(
        input_conv_filters=[8, 8, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        block_type="bottleneck_block_vd",
    ),
    "DenseNet": backbone(
        "DenseNet", stackwise_num_repeats=[2, 2, 2], growth_rate=8, image_shape=LARGE
    ),
    "EfficientNet": backbone("EfficientNet", **EFFICIENTNET),
    "MobileNet": backbone("MobileNet", **MOBILENET),
    "CSPNet": backbone("CSPNet", **CSPNET),
    "HGNetV2": hgnet,
    "VGG": backbone(
        "VGG", stackwise_num_repeats=[2, 2], stackwise_num_filters=[8, 16], image_shape=IMAGE
    ),
    "Xception": backbone(
        "Xception",
        stackwise_conv_filters=[[8, 16], [16, 32], [32, 32]],
        stackwise_pooling=[True, True, False],
        image_shape=LARGE,
    ),
    "ViT": backbone("ViT", **VIT, patch_size=(8, 8), mlp_dim=64),
    "DeiT": backbone("DeiT", **VIT, patch_size=8, intermediate_dim=64),
    "DINOV2": backbone(
        "DINOV2", **VIT, patch_size=8, intermediate_dim=64, position_embedding_shape=(32, 32)
    ),
    "DINOV3": backbone("DINOV3", **VIT, patch_size=8, intermediate_dim=64),
    "MiT": mit,
    "SegFormer": lambda: backbone("SegFormer", image_encoder=mit(), projection_filters=16)(),
    "Swin": backbone(
        "SwinTransformer",
        image_shape=IMAGE,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        patch_size=4,
    ),
    "ViTDet": vitdet,
    "SAM": sam,
    "DeepLabV3": lambda: backbone(
        "DeepLabV3",
        image_encoder=resnet(),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2, 3],
        projection_filters=8,
        image_shape=LARGE,
    )(),
    "RetinaNet": lambda: backbone(
        "RetinaNet",
        image_encoder=resnet(
            stackwise_num_filters=[64, 32, 32, 32],
            stackwise_num_blocks=[1] * 4,
            stackwise_num_strides=[1, 2, 2, 2],
        ),
        min_level=3,
        max_level=6,
        use_p5=False,
        image_shape=LARGE,
    )(),
    "D-FINE": dfine,
    "CLIP": lambda: two_towers("CLIP", projection_dim=16),
    "SigLIP": lambda: two_towers("SigLIP"),
    "VAE": vae,
}
