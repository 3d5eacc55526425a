"""Weights that systems start from, and released checkpoints: addresses, digests, licences. Fetched like data sets.

A suite or config.yaml names a file as ``weights:<name>/<file>``. It then lies in ``resources/weights/<name>/<file>``,
the mirror is asked for ``<mirror>/<name>/<file>``, and no job needs a network for it. Digests are given where they are
public: the whole one of Stable Diffusion v1.5, and the first eight digits that the file names of torchvision and DeiT
carry; any other is recorded at the first download and compared ever after. None of the addresses could be tried here.
"""

from __future__ import annotations

from recount.data.dataset import RemoteFile, Source

OPENAI = "MIT (openai/CLIP)"
TORCHVISION = "BSD-3-Clause (torchvision); trained on ImageNet, whose terms allow research only"


class Weights(Source):
    """A file of weights.

    Args:
        name: of its folder.
        title, homepage, licence: for people.
        file: the file.
        by_hand: what to do where no address answers.
    """

    def __init__(self, name: str, title: str, homepage: str, licence: str, file: RemoteFile, by_hand: str = "") -> None:
        self.name = name
        self.title = title
        self.homepage = homepage
        self.licence = licence
        self.file = file
        self.by_hand = by_hand

    @property
    def reference(self) -> str:
        """Return how a suite names the file."""
        return f"weights:{self.name}/{self.file.path}"

    def files(self) -> list[RemoteFile]:
        """Return the one file."""
        return [self.file]


def _hub(repository: str, path: str) -> RemoteFile:
    return RemoteFile(path, (f"hf:{repository}@main/{path}",))


def _clip(name: str, architecture: str, repository: str) -> Weights:
    return Weights(
        name,
        f"OpenAI's CLIP {architecture}, image and text tower, as safetensors",
        f"https://huggingface.co/{repository}",
        OPENAI,
        _hub(repository, "open_clip_model.safetensors"),
    )


def _torchvision(name: str, title: str, file: str, digest: str) -> Weights:
    address = f"https://download.pytorch.org/models/{file}"
    return Weights(name, title, "https://pytorch.org/vision", TORCHVISION, RemoteFile(file, (address,), digest))


def _clip_ebc(name: str, title: str, folder: str, size: int, sha256: str | None = None) -> Weights:
    return Weights(
        name,
        f"{title} on UCF-QNRF, version 1",
        "https://github.com/Yiming-M/CLIP-EBC",
        "MIT",
        RemoteFile("best_mae.pth", (), sha256, size),
        f"checkpoints/qnrf/{folder}/best_mae.pth of version 1 of the authors' weights: "
        "https://drive.google.com/drive/folders/1hEHRsyOxvtbnq8UR0iXnQ7kcKO7aaYVM",
    )


WEIGHTS = {
    entry.name: entry
    for entry in (
        Weights(
            "sd15",
            "Stable Diffusion v1.5, pruned, EMA weights only",
            "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
            "CreativeML Open RAIL-M",
            RemoteFile(
                "v1-5-pruned-emaonly.safetensors",
                ("hf:stable-diffusion-v1-5/stable-diffusion-v1-5@main/v1-5-pruned-emaonly.safetensors",),
                "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
                4_265_146_304,
            ),
        ),
        _clip("clip_vit_b32", "ViT-B/32", "timm/vit_base_patch32_clip_224.openai"),
        _clip("clip_vit_b16", "ViT-B/16", "timm/vit_base_patch16_clip_224.openai"),
        _clip("clip_vit_l14", "ViT-L/14", "timm/vit_large_patch14_clip_224.openai"),
        _clip("clip_rn50", "ResNet-50", "timm/resnet50_clip.openai"),
        Weights(
            "clip_vit_b16_laion2b",
            "OpenCLIP ViT-B/16 trained on LAION-2B (s34b_b88k)",
            "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
            "MIT",
            _hub("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "open_clip_model.safetensors"),
        ),
        _torchvision("vgg19", "VGG-19, ImageNet", "vgg19-dcbb9e9d.pth", "dcbb9e9d"),
        _torchvision("convnext_tiny", "ConvNeXt-Tiny, ImageNet", "convnext_tiny-983f1562.pth", "983f1562"),
        Weights(
            "deit_b16_384",
            "DeiT-B/16 at 384 pixels, ImageNet",
            "https://github.com/facebookresearch/deit",
            "Apache-2.0; trained on ImageNet, whose terms allow research only",
            RemoteFile(
                "deit_base_patch16_384-8de9b5d1.pth",
                ("https://dl.fbaipublicfiles.com/deit/deit_base_patch16_384-8de9b5d1.pth",),
                "8de9b5d1",
            ),
        ),
        Weights(
            "t2icount_paper",
            "T2ICount, the authors' model",
            "https://github.com/cha15yq/T2ICount",
            "none stated by the authors",
            RemoteFile("best_model_paper.pth", ("gdrive:1lw5LgpYP7vTazaMWTgNa6nFoZ63j-st9",)),
        ),
        _clip_ebc(
            "clip_ebc_resnet50_qnrf",
            "CLIP-EBC (ResNet-50)",
            "clip_resnet50_word_448_8_4_fine_1.0_dmcount_aug",
            542_307_202,
            "c7f3a15f36d4448584fa31847b4a49b43affb71a7d7f2f001fbe1a08eb732108",
        ),
        _clip_ebc(
            "clip_ebc_vit_b16_qnrf",
            "CLIP-EBC (ViT-B/16)",
            "clip_vit_b_16_word_256_8_4_fine_1.0_dmcount_aug",
            641_284_411,
        ),
        _clip_ebc(
            "dmcount_ebc_qnrf",
            "DMCount-EBC (VGG-19)",
            "vgg19_ae_448_8_4_fine_1.0_dmcount_aug",
            86_014_158,
            "0e163d9a742df26043d55f6940c3306412910e2ff269a40a01e3f0e671b1c2df",
        ),
        Weights(
            "dm_count_qnrf",
            "DM-Count (VGG-19) on UCF-QNRF",
            "https://github.com/cvlab-stonybrook/DM-Count",
            "MIT",
            RemoteFile("model_qnrf.pth"),
            "the file for UCF-QNRF in https://drive.google.com/drive/folders/10U7F4iW_aPICM5-qJq21SXLLkzlum9tX",
        ),
    )
}
