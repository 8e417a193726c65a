"""A step as one would write it first, slot by slot with torch's own AdamW: what the batched step must not differ from by a bit."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.base import Backbone, Tokens
from pipeline.randomness import torch_generator
from pipeline.training.inversion import Slot
from pipeline.training.schedules import rate_at


class PlainTrainer:
    """Trains the slots' words without early stopping, masks or own words, in one pass through the model."""

    def __init__(self, backbone: Backbone, slots: Sequence[Slot]) -> None:
        self.backbone, self.slots = backbone, slots
        self.words = [
            {name: word.detach().clone().requires_grad_() for name, word in slot.words.items()} for slot in slots
        ]
        self.optimisers = [
            torch.optim.AdamW(words.values(), lr=1.0, weight_decay=slot.settings.weight_decay)
            for words, slot in zip(self.words, slots, strict=True)
        ]
        self.step_count = 0

    def step(self) -> None:
        drawn = [self._draw(slot) for slot in self.slots]
        latents, noise, timesteps, ids = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        stacked = {name: torch.cat([words[name] for words in self.words]) for name in self.backbone.encoders}
        noisy = self.backbone.add_noise(latents, noise, timesteps)
        predicted = self.backbone.predict(noisy, timesteps, self.backbone.embed(Tokens(ids), stacked))
        squares = (predicted - self.backbone.target(latents, noise, timesteps)).square().mean((1, 2, 3))
        counts = [slot.settings.batch_size for slot in self.slots]
        torch.stack([some.mean() for some in squares.split(counts)]).sum().backward()
        for slot, words, optimiser in zip(self.slots, self.words, self.optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = rate_at(self.step_count, slot.settings)
            optimiser.step()
            optimiser.zero_grad()
            slot.hold_norm(words)
        self.step_count += 1

    def _draw(self, slot: Slot) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, mean, std = slot.settings.batch_size, slot.posterior.mean, slot.posterior.std
        generator = torch_generator(slot.settings.seed, slot.concept.name, "step", self.step_count)
        sentences = slot.sentences_at(self.step_count)
        choices = sentences.choices
        rows = torch.randint(len(mean), (count,), generator=generator)
        places = torch.randint(choices.shape[2], (count,), generator=generator)
        parts = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator, dtype=torch.float64)
        timesteps = (parts * (1000 / count)).long()
        noise = torch.randn(2, count, *mean.shape[1:], generator=generator)
        ids = sentences.tokens.ids[choices[0, rows % choices.shape[1], places]]
        before = sum(other.rows for other in self.slots[: self.slots.index(slot)])
        ids = torch.where(ids >= self.backbone.vocabulary, ids + before, ids)
        return mean[rows] + std[rows] * noise[0], noise[1], timesteps, ids
