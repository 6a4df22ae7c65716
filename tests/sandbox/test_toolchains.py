# ruff: noqa: E501  the programs are texts
from __future__ import annotations

import asyncio

import pytest

from codeflow.core.errors import UserError
from codeflow.sandbox import toolchains
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.result import Status
from codeflow.sandbox.toolchains import LANGUAGES, compiled, run_program, toolchain

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
LIMITS = Limits(wall_seconds=20, cpu_seconds=10, memory_bytes=256 * MIB)

# Reads two numbers and writes their sum.
SUMS = {
    "Python": "print(sum(map(int, input().split())))",
    "JavaScript": "const s = require('fs').readFileSync(0, 'utf8').split(' ').map(Number); console.log(s[0] + s[1])",
    "TypeScript": "declare var require: any;\nconst s: number[] = require('fs').readFileSync(0, 'utf8').split(' ')"
    ".map(Number); console.log(s[0] + s[1])",
    "Java": "import java.util.*;\npublic class Main {\n  public static void main(String[] a) {\n"
    "    Scanner s = new Scanner(System.in); System.out.println(s.nextInt() + s.nextInt());\n  }\n}\n",
    "C": '#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); return 0; }\n',
    "C++": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }\n",
    "Go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tvar a, b int\n\tfmt.Scan(&a, &b)\n\tfmt.Println(a + b)\n}\n',
    "Rust": "use std::io::*;\nfn main() {\n    let mut s = String::new();\n    stdin().read_to_string(&mut s).unwrap();\n"
    '    println!("{}", s.split_whitespace().map(|x| x.parse::<i32>().unwrap()).sum::<i32>());\n}\n',
    "Shell": "read a b; echo $((a + b))",
    "C#": "using System;\nclass P {\n  static void Main() {\n    var s = Console.ReadLine().Split(' ');\n"
    "    Console.WriteLine(int.Parse(s[0]) + int.Parse(s[1]));\n  }\n}\n",
    "PHP": '<?php [$a, $b] = explode(" ", trim(fgets(STDIN))); echo $a + $b, "\\n";',
    "Ruby": "puts gets.split.map(&:to_i).sum",
}
QUICK = ("Python", "Shell", "C", "JavaScript", "PHP", "Ruby")


def there(language: str) -> None:
    try:
        toolchain(language)
    except UserError as error:
        pytest.skip(str(error))


def check_sum(language: str) -> None:
    there(language)
    results = asyncio.run(run_program(language, SUMS[language], [b"3 4\n", b"20 22\n"], LIMITS))
    assert [(r.status, r.stdout) for r in results] == [(Status.OK, b"7\n"), (Status.OK, b"42\n")], results


@needs_sandbox
@pytest.mark.parametrize("language", QUICK)
def test_a_program_runs_on_many_inputs(language):
    check_sum(language)


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(set(SUMS) - set(QUICK)))
def test_a_program_of_a_slow_compiler_runs_on_many_inputs(language):
    check_sum(language)


@needs_sandbox
def test_sql_on_a_database_in_memory():
    there("SQL")
    source = "create table t(a int);\ninsert into t values (1), (41);\nselect sum(a) from t;\n"
    (result,) = asyncio.run(run_program("SQL", source))
    assert (result.status, result.stdout) == (Status.OK, b"42\n")


@needs_sandbox
def test_what_does_not_compile_says_so_and_is_not_compiled_again(monkeypatch):
    there("C")
    results = asyncio.run(run_program("C", "int main(void) { return x; }", [b"", b""]))
    assert [result.status for result in results] == [Status.COMPILE_ERROR] * 2
    assert b"undeclared" in results[0].stderr
    monkeypatch.setattr(toolchains, "_compile", None)
    asyncio.run(run_program("C", "int main(void) { return x; }"))


@needs_sandbox
def test_one_compilation_serves_equal_sources():
    there("C")
    source = "int main(void) { return 3; }"

    async def twice() -> bool:
        return await compiled("C", source) is await compiled("C", source)

    assert asyncio.run(twice())
    (result,) = asyncio.run(run_program("C", source))
    assert (result.status, result.exit_code) == (Status.FAILED, 3)


@needs_sandbox
def test_the_limits_hold_for_compiled_programs():
    there("C")
    loop, crash = "int main(void) { for (;;); }", "int main(void) { *(volatile int *)0 = 1; }"
    (late,) = asyncio.run(run_program("C", loop, limits=Limits(wall_seconds=0.5)))
    assert late.status is Status.TIME
    (fell,) = asyncio.run(run_program("C", crash))
    assert (fell.status, fell.exit_code) == (Status.CRASH, 139)


def test_absent_toolchains_say_what_to_install(monkeypatch):
    monkeypatch.setattr(toolchains, "_find", lambda name: "")
    for language in LANGUAGES:
        if language != "Python":
            with pytest.raises(UserError, match=r"programs cannot run: no .* here; install "):
                toolchain(language)
    with pytest.raises(UserError, match="no toolchain for 'Jav'; did you mean 'Java'"):
        toolchain("Jav")
