"""Blocks of an image as samples: each stops where its own part of the map is sure.

A network that answers with maps runs its stem and first stage on whole images. Then its
maps are cut into a grid of blocks, which are samples of their own from there on: the
runtime packs those that are left, as it does images. Later stages see of a block's
surroundings only a halo, so that their answers differ a little from those on the whole
image, most near the edges of blocks.
"""

import dataclasses
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp

from eenet_jax.backbones.staged import Backbone, Carry, StagedModule, Variables
from eenet_jax.data.map_records import VOID
from eenet_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks(Backbone):
    """A network of maps whose samples are blocks; made by ``in_blocks``.

    ``stem`` takes B images and returns the carry of B x G blocks, image by image, row
    by row. All else has B x G as batch; logits are ``[B G, h, w, C]`` of blocks.

    Attributes:
      grid: Rows and columns of blocks.
      halo: Places of the finest map around a block that later stages see.
    """

    grid: tuple[int, int] = (1, 1)
    halo: int = 0

    @property
    def samples_per_input(self) -> int:
        """G, blocks of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def whole(self) -> Backbone:
        """The network whose samples are images."""
        fields = dataclasses.fields(Backbone)
        return Backbone(**{field.name: getattr(self, field.name) for field in fields})

    def apply(
        self,
        variables: Variables,
        x: Any,
        *,
        train: bool = False,
        rngs: Any = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Computes the logits of all exits for the blocks of images.

        As ``Backbone.apply``, with logits ``[K, B G, h, w, C]``.
        """

        def forward(module: StagedModule, x: Any) -> jax.Array:
            carry = module.run_stage(0, module.run_stem(x, train), train)
            carry, logits = self._cut(carry), []
            for k in range(self.num_exits):
                carry = module.run_stage(k, carry, train) if k else carry
                logits.append(self._inside(module.run_head(k, carry, train)))
            return jnp.stack(logits)

        if not train:
            state = {name: v for name, v in variables.items() if name != "params"}
            return self.module.apply(variables, x, method=forward), state
        logits, state = self.module.apply(
            variables, x, method=forward, rngs=rngs, mutable=["batch_stats"]
        )
        return logits, dict(state)

    def stem(self, variables: Variables, x: Any) -> Carry:
        """Runs stem and first stage on whole images and cuts their maps."""
        return self._cut(super().stage(0, variables, super().stem(variables, x)))

    def stage(self, k: int, variables: Variables, carry: Carry) -> Carry:
        """Runs stage ``k`` on blocks; the first has been run."""
        return super().stage(k, variables, carry) if k else carry

    def head(self, k: int, variables: Variables, carry: Carry) -> jax.Array:
        """Returns the logits of exit ``k``, without the halo."""
        return self._inside(super().head(k, variables, carry))

    def _cut(self, carry: Carry) -> Carry:
        sizes = {leaf.shape[1:3] for leaf in jax.tree.leaves(carry)}
        if len(sizes) > 1:
            raise UserError(
                "blocks are cut behind the first exit, where this network has maps of "
                f"{len(sizes)} sizes already; let model.exits begin with 1"
            )
        return jax.tree.map(lambda a: cut(a, self.grid, self.halo), carry)

    def _inside(self, logits: jax.Array) -> jax.Array:
        p = self.halo
        return logits[:, p : logits.shape[1] - p, p : logits.shape[2] - p]

    def cut_labels(self, labels: jax.Array, answer: tuple[int, ...]) -> jax.Array:
        """Cuts label maps likewise, uint8 ``[B, H, W] -> [B G, h', w']``.

        Places beyond the image are void.

        Args:
          labels: Of images.
          answer: Height and width of a block's logits, and more.
        """
        # Each logit of a block stands for as many pixels as on the whole image.
        missing = [
            -size % (side * count)
            for size, side, count in zip(
                labels.shape[1:], answer[:2], self.grid, strict=True
            )
        ]
        padding = ((0, 0), *((0, count) for count in missing))
        labels = jnp.pad(labels, padding, constant_values=VOID)
        return cut(labels[..., None], self.grid, 0)[..., 0]


def read_blocks(text: str) -> tuple[tuple[int, int], int]:
    """Reads "ROWSxCOLUMNS", or "ROWSxCOLUMNS+HALO": the grid and the halo.

    Raises:
      UserError: If the text is neither.
    """
    found = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+))?", text)
    if found is None:
        raise UserError(
            f"--blocks={text} must be rows x columns of blocks, as 3x4, and perhaps a "
            "halo, in places of the finest map, as 3x4+2"
        )
    rows, columns, halo = (int(part or 0) for part in found.groups())
    return (rows, columns), halo


def in_blocks(backbone: Backbone, grid: tuple[int, int], halo: int = 0) -> Blocks:
    """Returns a network of maps with blocks as samples.

    Args:
      backbone: Answers with maps.
      grid: Rows and columns, at least 1 and more than 1 block in all.
      halo: See ``Blocks``.

    Raises:
      UserError: If the network answers with a class, or a number is not possible.
    """
    if backbone.output_kind != "map":
        raise UserError(
            f"--blocks={grid[0]}x{grid[1]} is for networks that answer with maps; "
            f"{backbone.name!r} answers with a class"
        )
    if min(grid) < 1 or grid == (1, 1) or halo < 0:
        raise UserError(
            f"--blocks={grid[0]}x{grid[1]}+{halo} must be rows x columns of at least "
            "two blocks, and a halo of at least 0"
        )
    fields = {f.name: getattr(backbone, f.name) for f in dataclasses.fields(Backbone)}
    return Blocks(**fields, grid=grid, halo=halo)


def cut(maps: jax.Array, grid: tuple[int, int], halo: int) -> jax.Array:
    """Cuts maps into blocks of one size, with zeros beyond the edges.

    Args:
      maps: ``[B, h, w, C]``.
      grid: Rows and columns of blocks.
      halo: Places around each block.

    Returns:
      ``[B G, h' + 2 halo, w' + 2 halo, C]`` with h' = ceil(h / rows).
    """
    batch, height, width, channels = maps.shape
    sides = -(-height // grid[0]), -(-width // grid[1])
    padding = [
        (halo, count * side - length + halo)
        for count, side, length in zip(grid, sides, (height, width), strict=True)
    ]
    maps = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    size = sides[0] + 2 * halo, sides[1] + 2 * halo
    starts = itertools.product(
        *(range(0, count * side, side) for count, side in zip(grid, sides, strict=True))
    )
    blocks = [maps[:, i : i + size[0], j : j + size[1]] for i, j in starts]
    return jnp.stack(blocks, axis=1).reshape(-1, *size, channels)


def join(blocks: jax.Array, grid: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Puts blocks without halo together, ``[B G, h', w', ...] -> [B, h, w, ...]``."""
    rows, columns = grid
    batch = blocks.shape[0] // (rows * columns)
    height, width, *rest = blocks.shape[1:]
    blocks = blocks.reshape(batch, rows, columns, height, width, *rest)
    whole = jnp.moveaxis(blocks, 3, 2)  # [B, rows, h', columns, w', ...]
    whole = whole.reshape(batch, rows * height, columns * width, *rest)
    return whole[:, : size[0], : size[1]]
