"""What a recurrent policy remembers: an LSTM, stepped by actors, run over fragments by learners."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class Memory(nn.Module):
    """A one-layer LSTM whose state has the columns `h` and `c`, float32 [rows, width] each."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.lstm = nn.LSTM(inputs, width)

    def step(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of B rows: [B, inputs] -> [B, width], and the state after it."""
        before = (state["h"].unsqueeze(0), state["c"].unsqueeze(0))
        out, (h, c) = self.lstm(x.unsqueeze(0), before)
        return out.squeeze(0), {"h": h.squeeze(0), "c": c.squeeze(0)}

    def over(self, x: Tensor, length: Tensor, initial: Mapping[str, Tensor]) -> Tensor:
        """All steps of N fragments laid end to end, without padding.

        Args:
            x: [S, inputs].
            length: int64 [N]; they sum to S.
            initial: columns [N, width]; zero where there are none.

        Returns:
            [S, width].
        """
        # Packed order: the first steps of all fragments, longest fragment first, then the second...
        longest_first = length.argsort(descending=True, stable=True)
        rank = torch.empty_like(longest_first)
        rank[longest_first] = torch.arange(len(length), device=length.device)
        start = (length.cumsum(0) - length).repeat_interleave(length)
        time = torch.arange(len(x), device=length.device) - start
        order = (time * len(length) + rank.repeat_interleave(length)).argsort()
        running = torch.bincount(time).cpu()

        first = longest_first[: int(running[0])]
        zero = x.new_zeros(len(length), self.width)
        h, c = (initial.get(name, zero)[first].unsqueeze(0) for name in ("h", "c"))
        packed, _ = self.lstm(PackedSequence(x[order], running), (h, c))
        out = torch.empty_like(packed.data)
        out[order] = packed.data
        return out
