#!/bin/sh
# tests/kernels/test_cuda_code.sh MODULE FOLDER ARCHITECTURES: what the compiler made of the GPU's kernels, read off
# the machine code in MODULE for each of the ARCHITECTURES, as CMake calls them ("80-real 90-real 90-virtual 90a": the
# last is what is for Hopper alone). It fails where one that should be fast has no copies of 16 bytes, or nothing for
# the tensor cores. No GPU is needed.
#
#   FOLDER         where cuobjdump, nvdisasm beside it, may be, if they are not on the PATH. A toolkit without them has
#                  them as packages of their own: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm
# A row of the table: registers of a thread; the warps that a multiprocessor has registers for (of 64); bytes of shared
# memory that are not asked for at the launch (from sm_90 on, with 1024 of the system); bytes of local memory, and
# instructions that use it; loads of 16 bytes, asynchronous copies of 16 bytes or more, and loads of 1 or 2 bytes; and
# products on the tensor cores by a warp, and by four (wgmma).
set -u
LC_ALL=C
export LC_ALL
[ $# -eq 3 ] || {
    sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
    exit 2
}
module=$1 PATH=$PATH:$2
architectures=$(echo "$3" | sed 's/[0-9]*-virtual//g; s/-real//g')
for tool in cuobjdump nvdisasm c++filt; do
    command -v $tool >/dev/null || {
        echo "skipped: no $tool here"
        exit 77
    }
done

# A line for each kernel and architecture: "sm_80", then the numbers in the order of the table, then its mangled name.
count_code() {
    awk '
        /^arch = /    { arch = $3 }
        / Function /  { name = $2; sub(/:$/, "", name) }
        / REG:/ {
            key = arch " " name
            for (i = 1; i <= NF; i++) { split($i, part, ":"); used[key, part[1]] = part[2] }
            keys[++n] = key
        }
        /Function : / { key = arch " " $3 }
        /^ +\/\*[0-9a-f]+\*\/ / {
            code[key] = 1
            op = $2 ~ /^@/ ? $3 : $2
            if (op ~ /^(LDL|STL)/) found[key, "local"]++
            else if (op ~ /^LDG\..*\.128/) found[key, "load"]++
            else if (op ~ /^(LDGSTS.*\.128|UBLKCP|UTMALDG)/) found[key, "copy"]++
            else if (op ~ /^LDG\..*\.[US](8|16)/) found[key, "narrow"]++
            else if (op ~ /^HMMA/) found[key, "mma"]++
            else if (op ~ /^HGMMA/) found[key, "wgmma"]++
        }
        END {
            for (i = 1; i <= n; i++) {
                key = keys[i]
                split(key, part, " ")
                registers = int((used[key, "REG"] + 7) / 8) * 8   # as they are given out
                warps = int(512 / registers) * 4                  # of each quarter of a multiprocessor
                printf "%s %d %d %d %d %d %d %d %d %d %d %s\n", part[1], used[key, "REG"], (warps > 64 ? 64 : warps),
                    used[key, "SHARED"], used[key, "STACK"] + used[key, "LOCAL"], found[key, "local"],
                    found[key, "load"], found[key, "copy"], found[key, "narrow"], found[key, "mma"],
                    found[key, "wgmma"], code[key] ? part[2] : "no_code_of:" part[2]
            }
        }'
}

# Names as a reader knows them: without arguments, spaces and the file that a kernel is private to.
shorten() {
    c++filt | sed -e 's/(anonymous namespace):://g' -e 's/__nv_bfloat16/bf16/g' -e 's/__half/fp16/g' \
        -e 's/ void / /' -e 's/(.*//' -e 's/, /,/g'
}

judge() {
    sort -k 1,1 -k 12,12 | awk -v architectures="$architectures" '
        # May use so many bytes of local memory.
        function excuse(kernel, bytes, why) { most[kernel] = bytes; reason[kernel] = why }
        function complain(what) { problems = problems name " (" arch "): " what "\n"; bad = 1 }
        BEGIN {
            excuse("fill_rope_table", 32, "cosf and sinf of angles beyond 105615")
            excuse("attend_prompt_kernel<128,2>", 8, "with sm_80 and sm_120, one number of 255, read once for a tile")
            # Read weights or KV pages, all of it bf16, into the tensor cores: the copies that their source unrolls.
            copies["attend_generated_kernel"] = 32
            copies["attend_prompt_kernel"] = 16
            copies["multiply_thin"] = 8
            copies["multiply_wide"] = 18
            copies["attend_hopper_kernel"] = 8
            hopper["attend_hopper_kernel"] = 1
            # Read rows of float32 as vectors.
            n_vectors = split("normalise<true,bf16> normalise<true,float> gate_rows<true,bf16> add_to_rows<true> " \
                "copy_rows<true,float> attend_block<true,float> multiply<true,1,float> multiply<true,4,float>", list)
            for (i = 1; i <= n_vectors; i++) vectors[list[i]] = 1
            heads = sprintf("%-6s %-34s %9s %5s %6s %10s %6s %6s %6s %5s %5s", "", "kernel", "registers", "warps",
                            "shared", "local", "load16", "copy16", "narrow", "mma", "wgmma")
        }
        index(" " architectures " ", " " substr($1, 4) " ") {
            arch = $1; name = $12; base = name
            sub(/<.*/, "", base)
            seen[arch] = seen[arch, base] = seen[arch, name] = 1
            if (arch != last) print heads
            last = arch
            printf "%-6s %-34s %9d %5d %6d %5d %4d %6d %6d %6d %5d %5d\n", arch, name, $2, $3, $4, $5, $6, $7, $8, $9,
                $10, $11
            if ($5 + $6 > 0) {
                excused = name in most ? name : base
                if ($5 <= most[excused]) used[excused] = 1
                else complain("local memory: " $5 " bytes, " $6 " instructions")
            }
            if (base in copies) {
                if ($8 < copies[base]) complain($8 " copies of 16 bytes, not " copies[base] " or more")
                if ($9 > 0) complain($9 " loads of 1 or 2 bytes")
                if ($10 + $11 == 0) complain("nothing for the tensor cores")
                if (base in hopper && $11 == 0) complain("no products by warpgroups")
            }
            if (name in vectors && $7 == 0) complain("no loads of 16 bytes")
        }
        END {
            n = split(architectures, wanted, " ")
            for (i = 1; i <= n; i++) {
                arch = "sm_" wanted[i]
                for (name in copies)
                    if (!seen[arch, name] && (name in hopper) == (arch == "sm_90a")) complain("there is no such kernel")
                for (name in vectors)
                    if (!seen[arch, name] && arch != "sm_90a") complain("there is no such kernel")
            }
            for (name in used) print name " uses local memory: " reason[name]
            printf "%s", problems
            exit bad
        }'
}

{
    cuobjdump -res-usage "$module"
    cuobjdump -sass "$module"
} | count_code | shorten | judge
