"""Time of attention within images whose numbers of tokens differ: SAT-HMR's, four ways.

``python tools/bench_attention.py --threads 1``. In the encoder every image's tokens look at each
other, in the decoder 50 queries look at their image's tokens:

    images    one image after the other (what ``hmrkit.models.sathmr.attention`` does)
    padded    images padded to the longest, keys masked
    block     all images as one sequence, a block-diagonal mask
    nested    jagged nested tensors

Prints the fastest and the median time of the repeats, forward and forward with backward, and how
far each way is from the first.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hmrkit.models.sathmr.attention import attend

ENCODER = (12, 64, 64)  # heads, width of queries and keys, width of values
DECODER = (4, 384, 192)
NUM_QUERIES = 50
Way = Callable[[Tensor, Tensor, Tensor, list[int], list[int]], Tensor]


def main() -> None:
    """Read the command line, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1227, 1417, 700, 900])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    columns = ("attention", "way", "pass", "fastest ms", "median ms", "off by")
    print(" ".join(f"{name:<10}" for name in columns))
    cases = {
        "encoder": (ENCODER, arguments.tokens),
        "decoder": (DECODER, [NUM_QUERIES] * len(arguments.tokens)),
    }
    for name, (sizes, query_counts) in cases.items():
        rows = make_rows(sizes, query_counts, arguments)
        expected = attend(*rows, query_counts, arguments.tokens)
        for way, function in WAYS.items():
            result = function(*rows, query_counts, arguments.tokens)
            off = (result - expected).detach().abs().max().item()
            for passes in ("forward", "backward"):
                times = measure(function, rows, query_counts, arguments, passes == "backward")
                fastest, median = 1e3 * min(times), 1e3 * statistics.median(times)
                line = (name, way, passes, f"{fastest:.1f}", f"{median:.1f}", f"{off:.0e}")
                print(" ".join(f"{value:<10}" for value in line), flush=True)


def make_rows(
    sizes: tuple[int, int, int], query_counts: list[int], arguments: argparse.Namespace
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries (M, heads, E), keys (N, heads, E) and values (N, heads, D)."""
    heads, width, width_of_values = sizes
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    options = {"dtype": dtype, "device": arguments.device, "requires_grad": True}
    num_keys = sum(arguments.tokens)
    return (
        torch.randn(sum(query_counts), heads, width, **options),
        torch.randn(num_keys, heads, width, **options),
        torch.randn(num_keys, heads, width_of_values, **options),
    )


def padded(
    query: Tensor, key: Tensor, value: Tensor, query_counts: list[int], key_counts: list[int]
) -> Tensor:
    """Every image as long as the longest."""
    parts = ((query, query_counts), (key, key_counts), (value, key_counts))
    query, key, value = (
        pad_sequence(list(rows.split(counts)), batch_first=True).transpose(1, 2)
        for rows, counts in parts
    )
    counts = torch.tensor(key_counts, device=key.device)
    is_key = torch.arange(key.shape[2], device=key.device) < counts[:, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_key[:, None, None])
    rows = zip(mixed.transpose(1, 2).flatten(2), query_counts, strict=True)
    return torch.cat([image[:count] for image, count in rows])


def block(
    query: Tensor, key: Tensor, value: Tensor, query_counts: list[int], key_counts: list[int]
) -> Tensor:
    """All images at once; none may look at another."""
    number = torch.arange(len(key_counts), device=key.device)
    image_of_query, image_of_key = (
        number.repeat_interleave(torch.tensor(counts, device=key.device))
        for counts in (query_counts, key_counts)
    )
    mask = image_of_query[:, None] == image_of_key
    rows = (part.transpose(0, 1)[None] for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(*rows, attn_mask=mask[None, None])
    return mixed[0].transpose(0, 1).flatten(1)


def nested(
    query: Tensor, key: Tensor, value: Tensor, query_counts: list[int], key_counts: list[int]
) -> Tensor:
    """Jagged nested tensors."""
    parts = ((query, query_counts), (key, key_counts), (value, key_counts))
    rows = []
    for part, counts in parts:
        ends = torch.tensor([0, *counts], device=part.device).cumsum(0)
        jagged = torch.nested.nested_tensor_from_jagged(
            part, offsets=ends, min_seqlen=min(counts), max_seqlen=max(counts)
        )
        rows.append(jagged.transpose(1, 2))
    mixed = F.scaled_dot_product_attention(*rows)
    return mixed.transpose(1, 2).values().flatten(1)


WAYS: dict[str, Way] = {"images": attend, "padded": padded, "block": block, "nested": nested}


def measure(
    function: Way,
    rows: tuple[Tensor, Tensor, Tensor],
    query_counts: list[int],
    arguments: argparse.Namespace,
    with_backward: bool,
) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    times = []
    for _ in range(arguments.repeats + 1):
        started = time.perf_counter()
        with torch.set_grad_enabled(with_backward):
            result = function(*rows, query_counts, arguments.tokens)
        if with_backward:
            torch.autograd.grad(result.sum(), rows)
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[1:]


if __name__ == "__main__":
    main()
