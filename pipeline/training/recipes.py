"""How a word of a model is learned where nobody says otherwise: a model of 64 pixels needs not what Stable Diffusion needs.

Every model but the shipped one gets the published recipe, that of diffusers' README for Stable Diffusion: 3,000 steps of four
pictures at a rate of 5e-4, scaled by those four. It is followed for other families too, where it is unmeasured; our rule
for an early stop ends most words before.
"""

from pipeline.settings import InversionSettings

PUBLISHED = InversionSettings(steps=3000, batch_size=4, learning_rate=2e-3)
# Vectors, steps and gamma were chosen by jobs/mini/choose_recipe.py (docs/measured.md). Colours and outline are decided where
# there is much noise, and a small gamma makes these timesteps count. No early stop: `settled` ends while colours are on their way.
RECIPES = {
    "mini": InversionSettings(
        steps=192, learning_rate=1e-2, schedule="cosine", min_snr=1, start="pictures", early_stop="off"
    ),
}
VECTORS = {"mini": 6}  # of a word; 1 for the others


def recipe_of(model: str) -> InversionSettings:
    """model: as --model names it.

    >>> recipe_of("mini").steps, recipe_of("stable-diffusion-v1-5/stable-diffusion-v1-5").steps
    (192, 3000)
    """
    return RECIPES.get(model, PUBLISHED)


def vectors_of(model: str) -> int:
    """How many vectors a word has where neither its row nor the request says so.

    >>> vectors_of("mini"), vectors_of("stable-diffusion-v1-5/stable-diffusion-v1-5")
    (6, 1)
    """
    return VECTORS.get(model, 1)
