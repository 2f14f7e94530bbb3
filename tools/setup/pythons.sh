#!/bin/sh
# Run the unit tests with several versions of Python, and print a table: `pythons.sh VERSIONS [WORDS FOR PYTEST...]`.
# An interpreter is one of the machine, or one that pyenv or uv has installed; else uv is asked to download it. If a
# version cannot be had, the table says so, and the exit code is 1.
set -eu
versions=$1
shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync/pythons
# uv finds and downloads the missing packages of each version; the machine's python3 has no part in this.
unset UV_PYTHON VIRTUAL_ENV PYTHONPATH
if [ $# -eq 0 ]; then
    set -- --quiet tests/agent tests/api tests/cli tests/fleet tests/hypervisor tests/kube tests/policy tests/runtime tests/sim
fi

# The path of an interpreter that runs and is of this version.
interpreter() {
    for candidate in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python3; do
        found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [ "$found" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
    "$UV" python install --quiet --no-bin "$1" >&2 && "$UV" python find --managed-python "$1"
}

table=$(mktemp)
trap 'rm -f "$table"' EXIT
failed=0
for version in $versions; do
    echo "Python $version"
    environment=$cache/$version
    if ! python=$(interpreter "$version"); then
        echo "$version|-|-|not run: no interpreter was found or could be downloaded" >>"$table"
        failed=1
        continue
    fi
    log=$cache/$version.log
    mkdir -p "$cache"
    if ! UV_PROJECT_ENVIRONMENT=$environment "$UV" sync --quiet --locked --no-default-groups --group test --group lab \
        --python "$python"; then
        echo "$version|$python|-|not run: its packages could not be installed" >>"$table"
        failed=1
        continue
    fi
    { "$environment/bin/pytest" "$@" 2>&1 || echo "exit code $?"; } | tee "$log"
    case $(tail -n 1 "$log") in 'exit code'*) failed=1 ;; esac
    result=$(grep -E '[0-9]+ (passed|failed|error)' "$log" | tail -n 1 | tr -d '=' | sed 's/^ *//; s/ *$//')
    exact=$("$environment/bin/python" -c 'import platform; print(platform.python_version())')
    binding=$("$environment/bin/python" -c 'import importlib.metadata as m; print(m.version("libvirt-python"))')
    echo "$exact|$python|$binding|${result:-no test has run}" >>"$table"
done
echo
{ echo 'PYTHON|INTERPRETER|LIBVIRT-PYTHON|UNIT TESTS'; cat "$table"; } |
    awk -F '|' '{ printf "%-8s %-44s %-15s %s\n", $1, $2, $3, $4 }'
exit "$failed"
