"""Compiling C: once a machine, whatever else happens."""

from __future__ import annotations

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest

from funcebm._torch import native

pytestmark = pytest.mark.skipif(native.why_not("c") is not None, reason="no C compiler")

SOURCE = "int answer(void) { return %d; }"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache, and a process that has loaded nothing."""
    monkeypatch.setenv("FUNCEBM_CACHE_DIR", str(tmp_path / "cache"))
    _forget(monkeypatch)
    return tmp_path / "cache"


@pytest.fixture
def commands(monkeypatch):
    """The compiler's command lines, as they are run."""
    seen = []
    run = subprocess.run

    def counted(command, **options):
        seen.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return seen


def _forget(monkeypatch):
    monkeypatch.setattr(native, "_libraries", {})


def _answer(value=42, **options):
    return native.load(SOURCE % value, name="answer", **options).answer()


_ALONE = """
import importlib.util, os, sys, threading
spec = importlib.util.spec_from_file_location("native", {path!r})
native = importlib.util.module_from_spec(spec)
sys.modules["native"] = native
spec.loader.exec_module(native)
assert "torch" not in sys.modules
answer = lambda n: native.load("int answer(void) {{ return %d; }}" % n, name="answer").answer()
"""


def _script(text: str) -> list[str]:
    return [sys.executable, "-c", _ALONE.format(path=native.__file__) + textwrap.dedent(text)]


def _only_file(folder: pathlib.Path) -> pathlib.Path:
    (file,) = folder.iterdir()  # and nothing is left beside it
    return file


# -- the cache ----------------------------------------------------------------------------------------------------


def test_a_process_compiles_once_and_the_next_one_not_at_all(commands, folder, monkeypatch):
    assert _answer() == 42
    assert _answer() == 42
    assert len(commands) == 1
    file = _only_file(folder)
    assert file.name.startswith("answer-") and file.suffix == ".so"
    _forget(monkeypatch)
    assert _answer() == 42
    assert len(commands) == 1


def test_other_source_other_flags_and_another_language_are_other_libraries(commands, folder):
    assert [_answer(1), _answer(2)] == [1, 2]
    source = '#ifdef __cplusplus\nextern "C"\n#endif\nint answer(void) { return ANSWER; }'
    assert [native.load(source, name="answer", flags=(f"-DANSWER={n}",)).answer() for n in (3, 4)] == [3, 4]
    if native.why_not("c++") is None:
        assert native.load(source, name="answer", language="c++", flags=("-DANSWER=3",)).answer() == 3
        assert commands[-1][0] == native.compiler("c++")[0]
    assert len(commands) == len(list(folder.iterdir())) >= 4


def test_another_compiler_or_processor_compiles_anew(commands, tmp_path, monkeypatch):
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {native.compiler("c")[0]} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    numbers = []
    for change in (
        lambda: None,
        lambda: os.utime(wrapper, (1, 1)),
        lambda: wrapper.write_text(wrapper.read_text() + "\n"),
    ):
        change()
        _forget(monkeypatch)
        assert _answer() == 42
        numbers.append(len(commands))
    monkeypatch.setattr(native, "processor", lambda: "another one")
    assert _answer() == 42
    assert [*numbers, len(commands)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: bytes(len(content)),
    ],
    ids=["empty", "half", "one_byte_short", "one_bit", "zeros"],
)
def test_a_damaged_library_is_compiled_again_once(damage, commands, folder, monkeypatch):
    _answer()
    file = _only_file(folder)
    content = file.read_bytes()
    file.unlink()  # the process has mapped it
    file.write_bytes(damage(content))
    for _ in range(2):
        _forget(monkeypatch)
        assert _answer() == 42
    assert len(commands) == 2
    _only_file(folder)


def test_a_library_that_is_whole_but_cannot_be_loaded_is_compiled_again(commands, folder):
    subprocess.run(_script("answer(42)"), check=True)  # not here: the loader knows again what it has loaded
    file = _only_file(folder)
    native.write(file.name, b"no machine code")
    assert native.read(file.name) == b"no machine code"
    commands.clear()
    assert _answer() == 42
    assert len(commands) == 1
    assert native.read(file.name) != b"no machine code"


def test_a_cache_that_is_removed_meanwhile_is_made_again(folder, monkeypatch):
    _answer()
    shutil.rmtree(folder)
    _forget(monkeypatch)
    assert _answer() == 42
    _only_file(folder)


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    found = [native.cache_dir()]
    for variable in ("FUNCEBM_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable)
        found.append(native.cache_dir())
    expected = ["cache", "inductor/funcebm", "xdg/funcebm", "home/.cache/funcebm"]
    assert found == [tmp_path / path for path in expected]
    assert all(path.is_dir() for path in found)


def test_a_cache_that_cannot_be_written_is_said_once_and_a_private_one_serves(tmp_path, commands, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUNCEBM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(native, "_private", None)
    with pytest.warns(RuntimeWarning, match="cannot be written .*FUNCEBM_CACHE_DIR"):
        assert _answer() == 42
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        private = native.cache_dir()
        _forget(monkeypatch)
        assert _answer() == 42
        assert len(commands) == 1
        native.write("plan", b"steps")
        assert native.read("plan") == b"steps"
    shutil.rmtree(private)
    _forget(monkeypatch)
    assert _answer() == 42  # it is made again
    shutil.rmtree(native.cache_dir())


def test_a_folder_without_permission_is_an_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # whoever runs the tests may write everywhere
    monkeypatch.setattr(native, "_private", str(tmp_path))
    assert native.cache_dir() == tmp_path


def test_small_files_come_back_and_damaged_or_missing_ones_do_not(folder):
    assert native.read("plan") is None
    for data in (b"", b"steps", bytes(range(256)) * 100):
        native.write("plan", data)
        assert native.read("plan") == data
    file = _only_file(folder)
    file.write_bytes(file.read_bytes()[:-1])
    assert native.read("plan") is None
    native.write("no/such/folder/plan", b"steps")  # silent
    assert native.read("no/such/folder/plan") is None


# -- at once ------------------------------------------------------------------------------------------------------


def test_threads_at_once_compile_once(commands):
    barrier = threading.Barrier(4)
    answers = []

    def ask():
        barrier.wait()
        answers.append(_answer())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 4
    assert len(commands) == 1


def test_processes_at_once_do_one_another_no_harm(folder):
    running = [subprocess.Popen(_script("assert answer(7) == 7")) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    _only_file(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_compiles_though_another_thread_held_the_locks():
    text = """
        assert answer(1) == 1
        locks = list(native._locks.values())
        command = native.compiler("c")
        lock_of_2 = native._lock(native.digest_of(("int answer(void) { return 2; }", command, "c", ((),)), command))
        lock_of_2.acquire()
        child = os.fork()
        if child == 0:
            os._exit(answer(2))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 2
    """
    assert subprocess.run(_script(text), timeout=60).returncode == 0


# -- the compiler -------------------------------------------------------------------------------------------------


def test_a_refused_source_is_an_error_with_the_compilers_words(folder):
    with pytest.raises(native.CompilerError, match=r"(?s)exit code 1.*source\.c:1.*undeclared_name") as caught:
        native.load("int answer(void) { return undeclared_name; }", name="answer")
    assert str(folder) not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_library_that_lacks_a_function_cannot_be_loaded():
    source = "int missing_function(void); int answer(void) { return missing_function(); }"
    with pytest.raises(native.CompilerError, match="missing_function"):
        native.load(source, name="answer", flags=("-Wl,-z,now",))


def test_other_flags_serve_where_the_first_are_refused(commands, monkeypatch):
    for _ in range(2):
        assert _answer(flags=("-fno-such-flag-at-all",), or_flags=(("-march=nothing",), ("-O1",))) == 42
        assert len(commands) == 3  # the second process knows the result
        _forget(monkeypatch)
    with pytest.raises(native.CompilerError, match="such-flag"):
        _answer(flags=("-march=nothing",), or_flags=(("-fno-such-flag-at-all",),))


def test_the_compiler_of_the_environment_may_have_arguments(monkeypatch):
    found = native.compiler("c")
    monkeypatch.setenv("CC", f"{found[0]} -DANSWER=43 '-DNOTE=a b'")
    assert native.compiler("c") == [found[0], "-DANSWER=43", "-DNOTE=a b"]
    assert native.load("int answer(void) { return ANSWER; }", name="answer").answer() == 43


def test_a_missing_compiler_is_an_error_that_says_the_fix(monkeypatch):
    assert native.why_not("c") is None
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("CXX", "")
    assert native.compiler("c") is None
    with pytest.raises(native.CompilerError, match=r"C compiler: .*CC names 'no-such-compiler'"):
        _answer()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert native.compiler("c") is native.compiler("c++") is None
    assert native.why_not() == "there is no C++ compiler (install g++, or name one in CXX)"
    with pytest.raises(native.CompilerError, match="no C compiler"):
        _answer()


def test_the_library_is_one_of_ctypes():
    library = native.load("double half(double x) { return x / 2; }", name="half", flags=("-O2",))
    assert isinstance(library, ctypes.CDLL)
    library.half.argtypes, library.half.restype = (ctypes.c_double,), ctypes.c_double
    assert library.half(3.0) == 1.5
