"""Samplers in miniature: latent diffusion, a conditional VAE, a GAN; how they forget a class, and what else moves."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what draws pictures, and how it is taught
        "latent": "Latent",
        "diffusion": "Denoiser Diffusion Teaching build fit",
        "unet": "UNet",
        "cvae": "CVAE",
        "gan": "GAN fit_gan",
        # forgetting: a registry of its own
        "unlearning": "configure methods published unlearn",
        # who looks at the pictures, and what has moved
        "judge": "Judge",
        "metrics": "Mirrored agreement forget_rate frechet integrity metrics",
    },
)
