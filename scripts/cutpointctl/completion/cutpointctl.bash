# SPDX-License-Identifier: BSD-3-Clause
# Completion of cutpointctl for bash.  Options come from --help, so that they are always those there are.

_cutpointctl()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} word command='' socket=${CUTPOINT_SOCKET:-} i
    local commands='snapshot check prepare hold cut abort transactions groups graph nodes commit'

    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -s | --socket) socket=${COMP_WORDS[i + 1]} ;;
        -*) ;;
        *) [ -n "$command" ] || command=$word ;;
        esac
    done
    case $previous in
    -s | --socket | --freeze | --file | --svg)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --directory)
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
        ;;
    --mode)
        mapfile -t COMPREPLY < <(compgen -W 'absolute-paths existing' -- "$current")
        return
        ;;
    -g | --group | --overlay-name | --format | --*timeout | --speed | --job-id) return ;;
    esac
    if [ -z "$command" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$current")
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(cutpointctl "$command" --help 2>/dev/null | grep -oE -- '(^|[ ,[])--?[a-z][a-z-]*' | tr -d ' ,[' | sort -u)" -- "$current")
    else
        case $command in
        snapshot | check | prepare | commit) word=$(cutpointctl nodes --names --socket "$socket" 2>/dev/null) ;;
        groups) word=$(cutpointctl groups --socket "$socket" 2>/dev/null | awk 'NR > 1 { print $1 }') ;;
        hold | cut | abort) word=$(cutpointctl transactions --socket "$socket" 2>/dev/null | awk 'NR > 1 { print $1 }') ;;
        *) word= ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")
    fi
}
complete -F _cutpointctl cutpointctl
