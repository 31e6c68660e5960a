#!/usr/bin/env python3
"""The speed of kvarve on the CPU beside llama.cpp's: the same weights, the same number of threads, in turn, in one run.

    tests/bench/beside_llama_cpp.py --llama DIR --model DIR --gguf FILE [options]

--llama is the folder of llama-bench and llama-batched-bench, --model a model directory and --gguf the same weights for
llama.cpp. To measure a shape without a download:

    build/kvarve synth --shape llama-1b --vocab 32000 /tmp/model
    python3 tests/bench/make_gguf.py /tmp/model /tmp/model.gguf

The two programs take turns for every row of the table, --rounds times, as machines have better and worse minutes; the
table has the medians and the median of the ratios. What the memory and a matrix product can do is measured by kvarve in
each of its runs. Only the standard library is needed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

DECODE_TOKENS = 32


def parse_arguments():
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--llama", required=True, help="folder of llama-bench and llama-batched-bench")
    own.add_argument("--model", required=True, help="model directory for kvarve")
    own.add_argument("--gguf", required=True, help="the same weights for llama.cpp")
    own.add_argument("--kvarve", default="build/kvarve")
    own.add_argument("--mpiexec", default="mpirun")
    own.add_argument("--ranks", type=int, default=1, help="of kvarve (default 1)")
    own.add_argument("--threads", type=int, default=2, help="in all, of both programs (default 2)")
    own.add_argument("--prefill", default="512,4096", help="lengths of prompts, or none")
    own.add_argument("--depths", default="0", help="contexts of one sequence's decode, or none")
    own.add_argument("--sequences", type=int, default=16, help="decoded at once; 1: no such row")
    own.add_argument("--rounds", type=int, default=3)
    own.add_argument("--options", default="", help="more options of kvarve, such as '--weights int8' or '--kv int8'")
    own.add_argument("--llama-options", default="", help="more of llama-bench, such as '-fa 1 -ctk q8_0 -ctv q8_0'")
    return own.parse_args()


def run(command, ranks=1):
    """(what it prints, seconds, the most that a rank had in memory)"""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        out.seek(0)
        err.seek(0)
        if status != 0:
            sys.exit(f"{' '.join(command)}: status {status}\n{err.read().decode()[-2000:]}")
        return out.read().decode(), seconds, usage.ru_maxrss * 1024 if ranks == 1 else None


def kvarve(args, command, *options):
    launch = [args.mpiexec, "-n", str(args.ranks)] if args.ranks > 1 else []
    threads = ["--threads", str(args.threads // args.ranks), "--device", "cpu"]
    return run(launch + [args.kvarve, command, "--model", args.model] + threads + list(options) + args.options.split(), args.ranks)


def kvarve_bench(args, machine, *options):
    """tokens/s of the only row, its shares of the memory's and of the matrix product's speed, and all the text"""
    text = kvarve(args, "bench", "--repeats", "1", *options)[0]
    speeds = re.search(r"machine: ([\d.]+) GB/s memory reads, ([\d.]+) GFLOP/s", text)
    machine.append((float(speeds[1]), float(speeds[2])))
    row = re.search(r"^(?:prefill|decode).*?\s{2,}\d+\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)%\s+([\d.]+)\s+([\d.]+)%", text, re.M)
    return float(row[1]), float(row[3]), float(row[5]), text


def llama_bench(args, *options):
    command = [f"{args.llama}/llama-bench", "-m", args.gguf, "-t", str(args.threads), "-r", "1", "-o", "jsonl"]
    return json.loads(run(command + list(options) + args.llama_options.split())[0].splitlines()[-1])["avg_ts"]


def llama_batch(args):
    n = args.sequences
    command = [f"{args.llama}/llama-batched-bench", "-m", args.gguf, "-t", str(args.threads), "-tb", str(args.threads)]
    command += ["-c", str(n * (DECODE_TOKENS + 16)), "-npp", "1", "-ntg", str(DECODE_TOKENS), "-npl", str(n)]
    text = run(command + ["--output-format", "jsonl"])[0]
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])["speed_tg"]


def numbers(text):
    return [] if text == "none" else text.split(",")


def cases(args, machine):
    """(name, kvarve's measurement, llama.cpp's) of each row"""
    one = ["--sequences", "1"]
    for n in numbers(args.prefill):
        yield (
            f"prefill of {n} tokens",
            lambda n=n: kvarve_bench(args, machine, "--prefill", n, "--depths", "0", "--decode-depths", "none", *one),
            lambda n=n: llama_bench(args, "-p", n, "-n", "0"),
        )
    for depth in numbers(args.depths):
        yield (
            f"decode, 1 sequence, context {depth}",
            lambda d=depth: kvarve_bench(args, machine, "--prefill", "none", "--depths", d, *one),
            lambda d=depth: llama_bench(args, "-p", "0", "-n", str(DECODE_TOKENS), "-d", d),
        )
    if args.sequences > 1:
        n = str(args.sequences)
        yield (
            f"decode, {n} sequences",
            lambda: kvarve_bench(args, machine, "--prefill", "none", "--depths", "none", "--sequences", n),
            lambda: llama_batch(args),
        )


def profile(text):
    """the columns of the regions' shares: {region: percent} of the only row"""
    part = text.split("rank 0's time", 1)[1].splitlines()[3:]
    return {line[:22].strip(): line[22:].strip() for line in part if line.strip()}


def start(args):
    """seconds from the program's start to the end of one token, and the most memory"""
    _, seconds, resident = kvarve(args, "generate", "--prompt", "Hello", "--max-tokens", "1", "--ignore-eos")
    return seconds, resident


def show(rows, profiles, starts, machine, args):
    weights = sum(
        os.path.getsize(os.path.join(args.model, name)) for name in os.listdir(args.model) if name.endswith(".safetensors")
    )
    print(f"{args.model}: {weights / 1e9:.2f} GB of weights; {args.ranks} x {args.threads // args.ranks} threads")
    print(
        f"machine: {statistics.median(m[0] for m in machine):.1f} GB/s memory reads, "
        f"{statistics.median(m[1] for m in machine):.0f} GFLOP/s matrix product\n"
    )
    print(f"{'tokens/s, medians':32} {'kvarve':>9} {'llama.cpp':>9} {'ratio':>6} {'of memory':>10} {'of matrix':>10}")
    for name, measured in rows.items():
        ours, theirs, memory, matrix = (statistics.median(m[i] for m in measured) for i in range(4))
        ratio = statistics.median(m[0] / m[1] for m in measured)
        print(f"{name:32} {ours:9.1f} {theirs:9.1f} {ratio:6.2f} {memory:9.0f}% {matrix:9.0f}%")
    seconds = statistics.median(s[0] for s in starts)
    print(f"\nstart to first token: {seconds:.2f} s, {weights / seconds / 1e9:.2f} GB/s of weights")
    if starts[0][1]:
        resident = max(s[1] for s in starts)
        print(f"resident then: {resident / 1e6:.0f} MB, {(resident - weights) / 1e6:.0f} MB beside the weights")
    regions = dict.fromkeys(region for p in profiles.values() for region in p)
    print(f"\n{'where the time goes (rank 0)':32}" + "".join(f" {i + 1:>8}" for i in range(len(profiles))))
    for region in regions:
        print(f"{region:32}" + "".join(f" {p.get(region, '-'):>8}" for p in profiles.values()))
    print("".join(f"\n({i + 1}) {name}" for i, name in enumerate(profiles)))


def main():
    args = parse_arguments()
    if args.threads % args.ranks:
        sys.exit("--threads must be a multiple of --ranks")
    rows, profiles, starts, machine = {}, {}, [], []
    for i in range(args.rounds):
        for name, ours, theirs in cases(args, machine):
            print(f"round {i + 1}: {name}", file=sys.stderr, flush=True)
            speed, memory, matrix, text = ours()
            rows.setdefault(name, []).append((speed, theirs(), memory, matrix))
            profiles[name] = profile(text)
        starts.append(start(args))
    show(rows, profiles, starts, machine, args)


if __name__ == "__main__":
    main()
