"""Recipes: values for the flags of the programs, by name; any flag given overrides its value.

    python applications/train.py --recipe=tdbn_resnet19_cifar10

What the papers or their code say is as they say it; a comment marks what is ours. Weight decay is
decoupled (Keras's), that of the papers' PyTorch code is not: our reading.
"""

VARIATIONS = (
    "images shift, flip, rand_augment, erase, mix_up, cut_mix, resized_crop; "
    "recordings flip, jitter, drop; speech shift, noise"
)

SGD = {"optimizer": "sgd", "momentum": 0.9}
CROP_FLIP = {"augmentation": ["shift", "flip"]}  # padding by 4 and a crop, for each image
CIFAR10 = {"dataset": "cifar10", "normalization": "cifar10", **CROP_FLIP}
CIFAR100 = {"dataset": "cifar100", "normalization": "cifar100", **CROP_FLIP}
IMAGENET = {
    "dataset": "imagenet2012",
    "image_size": 224,
    "normalization": "imagenet",
    "augmentation": ["resized_crop", "flip"],
    "timesteps": 4,
    "epochs": 320,
    "batch_size": 256,  # 8 GPUs of 32
    "learning_rate": 0.1,
    "schedule": "cosine",
    "dtype": "mixed_float16",
    "seed": 2020,
    **SGD,
}
# Vicente-Sola et al. (2022).
S_RESNET38 = {
    "model": "SResNet38",
    "timesteps": 50,
    "epochs": 70,
    "batch_size": 21,
    "learning_rate": 0.026844,
    "weight_decay": 1e-4,
    "schedule": "steps",
    "decay_at": ["0.7", "0.8", "0.9"],
    **SGD,
}
# Rathi et al. (2020), whose code trains the ANNs of conversion too.
VGG16_ANN = {
    "model": "ConversionVGG16",
    "width": 1.0,
    "epochs": 300,
    "learning_rate": 1e-2,
    "weight_decay": 5e-4,
    "schedule": "steps",
    "decay_at": ["0.6", "0.8", "0.9"],
    "calibration_examples": 512,
    "calibration_timesteps": 1000,
    "method": ["spike_norm"],
    **SGD,
    **CIFAR10,
}

RECIPES = {
    "digits": {
        "about": "scikit-learn's digits in a minute on a CPU (ours)",
        "model": "SEWResNet8",
        "dataset": "digits",
        "timesteps": 4,
        "epochs": 15,
    },
    "fashion_mnist_small": {
        "about": "a small convolutional network on Fashion-MNIST on a CPU (ours)",
        "model": "SpikingConvNet",
        "dataset": "fashion_mnist",
        "normalization": "fashion_mnist",
        "timesteps": 4,
        "epochs": 12,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup_epochs": 0.5,
        "weight_decay": 0.01,
        "augmentation": ["flip"],
    },
    "nmnist": {
        "about": "recordings of N-MNIST on a CPU (ours)",
        "model": "SEWResNet8",
        "neuron": "ParametricLIF",
        "dataset": "nmnist",
        "timesteps": 10,
        "epochs": 15,
        "batch_size": 32,
    },
    "spoken_digits": {
        "about": "the Free Spoken Digit Dataset on a CPU (ours)",
        "model": "SpeechNet",
        "dataset": "spoken_digits",
        "augmentation": ["shift", "noise"],
        "timesteps": 50,
        "epochs": 30,
        "batch_size": 32,
    },
    "speech_commands": {
        "about": "35 words of Speech Commands (ours)",
        "model": "SpeechNet",
        "dataset": "speech_commands",
        "augmentation": ["shift", "noise"],
        "timesteps": 50,
        "epochs": 30,
        "batch_size": 128,
        "weight_decay": 0.01,
    },
    "sew_resnet_imagenet": {
        "about": "Fang et al. (2021); --model=SEWResNet50 and the others alike",
        "model": "SEWResNet18",
        **IMAGENET,
    },
    "sew_resnet_cifar10": {
        "about": "SEW-ResNet-18 on CIFAR-10 (schedule and decay ours)",
        "model": "SEWResNet18",
        "timesteps": 4,
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        **SGD,
        **CIFAR10,
    },
    "tdbn_resnet19_cifar10": {
        "about": "Zheng et al. (2021), 92.92 % (number of epochs ours)",
        "model": "TDBNResNet19",
        "timesteps": 4,
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        **SGD,
        **CIFAR10,
    },
    "s_resnet38_cifar10": {
        "about": "Vicente-Sola et al. (2022), 94.14 %",
        **S_RESNET38,
        **CIFAR10,
    },
    "s_resnet38_cifar100": {
        "about": "Vicente-Sola et al. (2022), 74.65 %",
        **S_RESNET38,
        **CIFAR100,
    },
    "danet50_imagenet": {
        "about": "Li et al. (2023), 73.71 % (layout and all of the recipe are our reading)",
        "model": "DANet50",
        **IMAGENET,
    },
    "hybrid_vgg16_cifar10": {
        "about": "Rathi et al. (2020), 91.13 % at T = 100",
        "program": "hybrid",
        "timesteps": 100,
        "input_coding": "poisson",
        "snn_normalization": "unit",  # that of the ANN has the data's mean and deviation
        "threshold_scale": 0.7,
        "finetune_epochs": 20,
        "finetune_learning_rate": 1e-4,
        "dropout": 0.3,
        **VGG16_ANN,
    },
    "spike_norm_vgg16_cifar10": {
        "about": "Sengupta et al. (2019), 91.55 % at T = 2500",
        "program": "convert",
        "timesteps": 2500,
        "input_coding": "poisson",
        **VGG16_ANN,
    },
    "wide7b_cifar10dvs": {
        "about": "Fang et al. (2021), 74.4 %",
        "model": "SEWWide7BNet",
        "dataset": "cifar10_dvs",
        "timesteps": 16,
        "epochs": 64,
        "batch_size": 16,
        "learning_rate": 0.01,
        "workers": 4,  # ours
        **SGD,
    },
    "7b_dvs_gesture": {
        "about": "Fang et al. (2021), 97.92 %",
        "model": "SEW7BNet",
        "options": '{"zero_init_residual": true}',
        "dataset": "dvs_gesture",
        "timesteps": 16,
        "train_timesteps": 12,
        "epochs": 192,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "schedule": "steps",
        "decay_at": ["0.3333", "0.6667"],
        "dtype": "mixed_float16",
        "workers": 4,  # ours
        **SGD,
    },
}
