# SPDX-License-Identifier: BSD-3-Clause
# For scripts to source, from the root of the source tree.

# configure DIRECTORY [meson setup option...]: sets the directory up; one that is there already gets the options (-D...) given.
configure()
{
    if [ ! -f "$1/build.ninja" ]; then
        meson setup "$@"
        return
    fi
    options=
    for argument in "$@"; do
        case $argument in
        -D*) options="$options $argument" ;;
        esac
    done
    [ -z "$options" ] || meson configure "$1" $options
}

# build DIRECTORY [meson setup option...]: configures the directory and builds what build_target says (default: all).
# Quiet unless something is wrong.
build()
{
    build_dir=$1
    build_log=$(mktemp)
    if configure "$@" >"$build_log" 2>&1 &&
        ninja -C "$build_dir" ${build_target:-} >>"$build_log" 2>&1; then
        rm -f "$build_log"
        return 0
    fi
    tail -n 60 "$build_log" >&2
    rm -f "$build_log"
    echo "building in $build_dir failed" >&2
    return 1
}
