"""Completion for bash, zsh and fish: static files, so that the Tab key starts no program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from routesync.cli.manual.commands import Argument, Command, Option, commands, program

_HEAD = "Made by `make manual` from the commands of routesync.\n"


def bash() -> str:
    """For /usr/share/bash-completion/completions/routesync; needs no bash-completion."""
    _, options = program()
    every = commands()
    before = " ".join([*(name for it in options for name in it.names), *(it.name for it in every)])
    cases = "".join(_bash_case(it) for it in every)
    return f"""\
# {_HEAD}
_routesync() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command= word
    local options= values= files= words=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $word == -* ]] || {{ command=$word; break; }}
    done
    case $command in
{cases}        "")
            options={_quoted(before)} ;;
        *)
            return ;;
    esac
    if [[ -n $values ]]; then
        COMPREPLY=($(compgen -W "$values" -- "$current"))
    elif [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\\n'
        COMPREPLY=($(compgen "$files" -- "$current"))
    elif [[ $current == -* || -z $command || -z $words ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ $words == @* ]]; then
        compopt -o filenames 2>/dev/null
        local IFS=$'\\n'
        COMPREPLY=($(compgen "${{words#@}}" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -F _routesync routesync
"""


def _bash_case(command: Command) -> str:
    names = " ".join(name for option in command.options for name in option.names)
    lines = [f"        {command.name})", f"            options={_quoted(names)}"]
    valued = [option for option in command.options if option.value is not None]
    if valued:
        lines.append("            case $previous in")
        lines += [f"                {'|'.join(it.names)}) {_bash_value(it)} ;;" for it in valued]
        lines.append("            esac")
    lines += [
        f"            words={_quoted(_bash_words(it))}" for it in command.arguments[:1] if _bash_words(it)
    ]
    lines.append("            ;;")
    return "\n".join(lines) + "\n"


def _bash_value(option: Option) -> str:
    if option.choices:
        return f"values={_quoted(' '.join(option.choices))}"
    flag = {"file": "-f", "directory": "-d", "nothing": ""}[option.completes]
    return f"files={flag}" if flag else "return"


def _bash_words(argument: Argument) -> str:
    return "@-f" if argument.completes == "file" else " ".join(argument.choices)


def _quoted(text: str) -> str:
    return f"'{text}'"


def zsh() -> str:
    """For /usr/share/zsh/vendor-completions/_routesync."""
    _, options = program()
    every = commands()
    told = "".join(f"        {shlex.quote(f'{it.name}:{it.summary}')}\n" for it in every)
    cases = "".join(_zsh_case(it) for it in every)
    before = "".join(f"        {it} \\\n" for option in options for it in _zsh_option(option))
    return f"""\
#compdef routesync
# {_HEAD}
_routesync() {{
    local context state state_descr line
    typeset -A opt_args
    local -a commands
    commands=(
{told}    )
    _arguments -C -S \\
{before}        '1: :->command' \\
        '*:: :->arguments'
    case $state in
        command)
            _describe -t commands command commands ;;
        arguments)
            case $words[1] in
{cases}            esac ;;
    esac
}}

_routesync "$@"
"""


def _zsh_case(command: Command) -> str:
    lines = [it for option in command.options for it in _zsh_option(option)]
    lines += [_zsh_argument(it) for it in command.arguments]
    joined = " \\\n                        ".join(lines)
    case = " " * 16
    return f"{case}{command.name})\n{case}    _arguments -S \\\n{case}        {joined} ;;\n"


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _zsh_action(choices: tuple[str, ...], completes: str) -> str:
    if choices:
        return f"({' '.join(choices)})"
    return {"file": "_files", "directory": "_files -/", "nothing": " "}[completes]


def _zsh_option(option: Option) -> Iterator[str]:
    """One specification for each name; unless it may be repeated, one name shuts the others out."""
    for name in option.names:
        shut = "*" if option.repeats else f"({' '.join(option.names)})"
        spec = f"{shut}{name}[{_zsh_text(option.help.removesuffix('.'))}]"
        if option.value is not None:
            spec += f":{_zsh_text(option.value)}:{_zsh_action(option.choices, option.completes)}"
        yield shlex.quote(spec)


def _zsh_argument(argument: Argument) -> str:
    place = "*:" if argument.repeats else ":" if argument.required else "::"
    return shlex.quote(
        f"{place}{_zsh_text(argument.value)}:{_zsh_action(argument.choices, argument.completes)}"
    )


def fish() -> str:
    """For /usr/share/fish/vendor_completions.d/routesync.fish."""
    _, options = program()
    lines = [f"# {_HEAD}", "complete -c routesync -f"]
    lines += [_fish_option(option, "__fish_use_subcommand") for option in options]
    for command in commands():
        summary = _fish_quoted(command.summary)
        lines.append(f"complete -c routesync -n __fish_use_subcommand -a {command.name} -d {summary}")
    for command in commands():
        seen = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(option, seen) for option in command.options]
        for argument in command.arguments:
            if argument.completes == "file":
                lines.append(f"complete -c routesync -n {_fish_quoted(seen)} -F")
            elif argument.choices:
                words = _fish_quoted(" ".join(argument.choices))
                lines.append(f"complete -c routesync -n {_fish_quoted(seen)} -a {words}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option, when: str) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = ""
    if option.value is not None:
        value = " -r" if option.completes == "nothing" or option.choices else " -r -F"
        if option.choices:
            value = f" -x -a {_fish_quoted(' '.join(option.choices))}"
    told = _fish_quoted(option.help.removesuffix("."))
    return f"complete -c routesync -n {_fish_quoted(when)} {names}{value} -d {told}"


def _fish_quoted(text: str) -> str:
    told = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{told}'"
