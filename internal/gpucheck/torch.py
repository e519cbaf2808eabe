# Times torch.matmul of the shapes on standard input, one JSON object a line
# {blocks, m, n, k, transposed, dtype, buffers, launches, repeats}, and writes the
# median of a launch in microseconds, a line each. Transposed operands are those of
# a weight's gradient: [k, m] and [k, n]. The launches of a measurement are one
# graph, so that the host has no part in the time.
import json
import sys

import torch

print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(0)}), flush=True)
for line in sys.stdin:
    s = json.loads(line)
    dtype = torch.bfloat16 if s["dtype"] == "bf16" else torch.float32
    sets, blocks, m, n, k = s["buffers"], s["blocks"], s["m"], s["n"], s["k"]
    of = (sets,) if blocks == 1 else (sets, blocks)
    if s["transposed"]:
        a = torch.randn(*of, k, m, device="cuda", dtype=dtype).transpose(-1, -2)
        b = torch.randn(*of, k, n, device="cuda", dtype=dtype)
    else:
        a = torch.randn(*of, m, k, device="cuda", dtype=dtype)
        b = torch.randn(*of, n, k, device="cuda", dtype=dtype).transpose(-1, -2)
    out = torch.empty(*of, m, n, device="cuda", dtype=dtype)

    def launch(times):
        for i in range(times):
            torch.matmul(a[i % sets], b[i % sets], out=out[i % sets])

    # What the library sets up at the first launch is no part of a graph.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        launch(min(3, sets))
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(s["launches"])
    times = []
    for i in range(1 + s["repeats"]):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i > 0:
            times.append(1e3 * start.elapsed_time(end) / s["launches"])
    print(sorted(times)[len(times) // 2], flush=True)
    del a, b, out, graph
