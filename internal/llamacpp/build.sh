#!/bin/sh
# Builds llama.cpp's library and the program probe from the source package of Python's
# llama-cpp-python into a folder, for one core type: this machine's.
#
#	internal/llamacpp/build.sh build/llamacpp
#
# GELU goes through a table of F16 in llama.cpp's own builds, which is off by about
# 1e-3. Here it is computed, so that a comparison shows what is wrong.
set -eu
version=0.3.36
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
rm -rf source objects probe
${PYTHON:-python3} -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest . "llama-cpp-python==$version"
mkdir source
tar xzf "llama_cpp_python-$version.tar.gz" -C source --strip-components=3 "llama_cpp_python-$version/vendor/llama.cpp"
sed -i 's/^#define GGML_GELU_FP16$//' source/ggml/src/ggml-cpu/vec.h
cmake -S source -B objects -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF \
	-DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
cmake --build objects --target llama --parallel "${JOBS:-2}"
c++ -O1 -std=c++17 -Isource/include -Isource/ggml/include "$here/probe/probe.cpp" -o probe \
	objects/src/libllama.a objects/ggml/src/libggml.a objects/ggml/src/libggml-cpu.a objects/ggml/src/libggml-base.a -lpthread -ldl -lm
rm -rf objects source "llama_cpp_python-$version.tar.gz"
echo "$1/probe"
