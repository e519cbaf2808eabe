#!/bin/sh
# Builds llama.cpp's library and two programs from the source package of Python's
# llama-cpp-python into a folder, for one core type: this machine's.
#
#	internal/llamacpp/build.sh build/llamacpp
#
# bench, the peer of sffn bench, has ggml as llama.cpp builds it by default. probe has one
# without the fast paths, to compare results with: llama.cpp's GELU goes through a table of
# F16, which is off by about 1e-3. There it is computed, so that a comparison shows what is
# wrong. The rest of the library, which takes the most time to build, is the same for both.
set -eu
version=0.3.36
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
rm -rf source objects defaults probe bench
${PYTHON:-python3} -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest . "llama-cpp-python==$version"
mkdir source
tar xzf "llama_cpp_python-$version.tar.gz" -C source --strip-components=3 "llama_cpp_python-$version/vendor/llama.cpp"

# build FOLDER TARGET SETTING...
build() {
	folder=$1 target=$2
	shift 2
	cmake -S source -B "$folder" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF "$@" \
		-DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
	cmake --build "$folder" --target "$target" --parallel "${JOBS:-2}"
}

# link PROGRAM FOLDER FLAG...
link() {
	program=$1 ggml=$2/ggml/src
	shift 2
	c++ -O1 -std=c++17 -DVERSION="\"llama-cpp-python $version\"" -Isource/include -Isource/ggml/include "$here/$program/$program.cpp" -o "$program" \
		objects/src/libllama.a "$ggml/libggml.a" "$ggml/libggml-cpu.a" "$ggml/libggml-base.a" "$@" -lpthread -ldl -lm
}

# Of the description of AMX's tiles this version tells the compiler to store the first
# 8 bytes only, and GCC leaves the rest out: Q8_0 and Q4_0 would end in an illegal instruction.
sed -i 's/^    _tile_loadconfig(&tc);$/    __asm__ volatile("" : : "r"(\&tc) : "memory");\n&/' source/ggml/src/ggml-cpu/amx/mmq.cpp
build defaults ggml
sed -i 's/^#define GGML_GELU_FP16$//' source/ggml/src/ggml-cpu/vec.h
build objects llama -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF
link probe objects
# The compiler's flag for OpenMP, where cmake has found it.
link bench defaults $(sed -n 's/^OpenMP_CXX_FLAGS:STRING=\(-.*\)$/\1/p' defaults/CMakeCache.txt)
rm -rf objects defaults source "llama_cpp_python-$version.tar.gz"
echo "$1/probe $1/bench"
