# Times torch.matmul of the shapes on standard input, one JSON object a line
# {blocks, m, n, k, transposed, dtype, buffers, launches, repeats}, and writes the
# median of a launch in microseconds, a line each. Transposed operands are those of
# a weight's gradient: [k, m] and [k, n].
import json
import sys

import torch

print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(0)}), flush=True)
for line in sys.stdin:
    s = json.loads(line)
    dtype = torch.bfloat16 if s["dtype"] == "bf16" else torch.float32
    sets = []
    for _ in range(s["buffers"]):
        if s["transposed"]:
            a = torch.randn(s["blocks"], s["k"], s["m"], device="cuda").to(dtype).transpose(1, 2)
            b = torch.randn(s["blocks"], s["k"], s["n"], device="cuda").to(dtype)
        else:
            a = torch.randn(s["blocks"], s["m"], s["k"], device="cuda").to(dtype)
            b = torch.randn(s["blocks"], s["n"], s["k"], device="cuda").to(dtype).transpose(1, 2)
        sets.append((a[0], b[0]) if s["blocks"] == 1 else (a, b))
    outs = [torch.matmul(a, b) for a, b in sets]
    torch.cuda.synchronize()
    times = []
    for _ in range(s["repeats"]):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for i in range(s["launches"]):
            a, b = sets[i % len(sets)]
            torch.matmul(a, b, out=outs[i % len(sets)])
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * start.elapsed_time(end) / s["launches"])
    print(sorted(times)[len(times) // 2], flush=True)
