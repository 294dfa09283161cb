# SPDX-License-Identifier: BSD-3-Clause
# For scripts to source, from the root of the source tree.

# build DIRECTORY [meson setup option...]: configures the directory if it is not yet, and builds what build_target says (default: all).
# Quiet unless something is wrong.
build()
{
    build_dir=$1
    shift
    build_log=$(mktemp)
    if { [ -f "$build_dir/build.ninja" ] || meson setup "$build_dir" "$@"; } >"$build_log" 2>&1 &&
        ninja -C "$build_dir" ${build_target:-} >>"$build_log" 2>&1; then
        rm -f "$build_log"
        return 0
    fi
    tail -n 60 "$build_log" >&2
    rm -f "$build_log"
    echo "building in $build_dir failed" >&2
    return 1
}
