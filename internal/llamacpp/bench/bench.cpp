// bench is llama.cpp as a peer of sffn's benchmarks: a model that fills in the prompts of
// sequences and decodes a token of each.
//
//   bench quantize FROM.gguf TO.gguf Q8_0|Q4_0 THREADS
//   bench MODEL.gguf THREADS SEQUENCES PROMPT STEPS
//
// The second form reads lines of standard input. The first one has the tokens of all
// sequences, PROMPT and one more of each; what follows are commands, and each answer is a
// line of JSON, the first one when all has run once:
//
//   run N OP    {"seconds": S}, what N runs of OP took
//   show OP     {"result": [[...]]}, the logits behind the last token of each sequence
//
// OP is prefill, the prompts of all sequences, one after the other, or decode, the token
// after them, at each of STEPS places in turn. Each sequence has keys and values of its
// own. What is not named here is as llama.cpp has it by default.
#include "ggml.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

[[noreturn]] static void fail(const std::string & what) {
    fprintf(stderr, "%s\n", what.c_str());
    exit(1);
}

static int number(const char * text) {
    const int n = atoi(text);
    if (n < 1) {
        fail(std::string("want a number of 1 or more, got ") + text);
    }
    return n;
}

static int quantize(char ** argv) {
    llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = strcmp(argv[4], "Q8_0") == 0 ? LLAMA_FTYPE_MOSTLY_Q8_0 : LLAMA_FTYPE_MOSTLY_Q4_0;
    p.nthread = number(argv[5]);
    if (llama_model_quantize(argv[2], argv[3], &p) != 0) {
        fail(std::string("llama.cpp cannot quantize this model to ") + argv[4]);
    }
    return 0;
}

struct bench {
    llama_model * model;
    llama_context * ctx;
    llama_batch batch;
    int sequences, prompt, steps, calls = 0;
    std::vector<llama_token> ids; // prompt + 1 of each sequence

    llama_token * of(int s) { return ids.data() + s * (prompt + 1); }

    void add(llama_token id, int pos, int sequence, bool logits) {
        const int i = batch.n_tokens++;
        batch.token[i] = id;
        batch.pos[i] = pos;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = sequence;
        batch.logits[i] = logits;
    }

    void compute() {
        if (llama_decode(ctx, batch) != 0) {
            fail("llama_decode failed");
        }
        llama_synchronize(ctx);
    }

    // Logits are kept until the next call of llama_decode.
    void keep(std::vector<float> * logits, int i) {
        if (logits) {
            const float * row = llama_get_logits_ith(ctx, i);
            logits->insert(logits->end(), row, row + llama_vocab_n_tokens(llama_model_get_vocab(model)));
        }
    }

    void prefill(std::vector<float> * logits) {
        llama_memory_clear(llama_get_memory(ctx), false);
        for (int s = 0; s < sequences; s++) {
            batch.n_tokens = 0;
            for (int i = 0; i < prompt; i++) {
                add(of(s)[i], i, s, i == prompt - 1);
            }
            compute();
            keep(logits, prompt - 1);
        }
        calls = 0;
    }

    void decode(std::vector<float> * logits) {
        const int at = prompt + calls++ % steps;
        batch.n_tokens = 0;
        for (int s = 0; s < sequences; s++) {
            if (!llama_memory_seq_rm(llama_get_memory(ctx), s, at, -1)) {
                fail("this model's memory cannot forget its last tokens");
            }
            add(of(s)[prompt], at, s, true);
        }
        compute();
        for (int s = 0; s < sequences; s++) {
            keep(logits, s);
        }
    }

    void run(const std::string & op, std::vector<float> * logits = nullptr) {
        if (op == "prefill") {
            prefill(logits);
        } else if (op == "decode") {
            decode(logits);
        } else {
            fail("unknown operation " + op);
        }
    }
};

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    if (argc == 6 && strcmp(argv[1], "quantize") == 0) {
        return quantize(argv);
    }
    if (argc != 6) {
        fprintf(stderr, "usage: bench MODEL.gguf THREADS SEQUENCES PROMPT STEPS\n");
        return 2;
    }
    bench b;
    const int threads = number(argv[2]);
    b.sequences = number(argv[3]);
    b.prompt = number(argv[4]);
    b.steps = number(argv[5]);
    if (b.sequences > (int) llama_max_parallel_sequences()) {
        fail("llama.cpp takes " + std::to_string(llama_max_parallel_sequences()) + " sequences at most, got " + argv[3]);
    }
    std::string line;
    std::getline(std::cin, line);
    std::istringstream words(line);
    for (llama_token id; words >> id;) {
        b.ids.push_back(id);
    }
    if (b.ids.size() != (size_t) b.sequences * (b.prompt + 1)) {
        fail("want " + std::to_string(b.sequences * (b.prompt + 1)) + " tokens, got " + std::to_string(b.ids.size()));
    }
    if (!(b.model = llama_model_load_from_file(argv[1], llama_model_default_params()))) {
        return 1;
    }
    llama_context_params cp = llama_context_default_params();
    cp.n_threads = cp.n_threads_batch = threads;
    cp.n_seq_max = b.sequences;
    cp.n_ctx = b.sequences * (b.prompt + b.steps);
    cp.n_batch = std::max({(int) cp.n_batch, b.prompt, b.sequences});
    if (!(b.ctx = llama_init_from_model(b.model, cp))) {
        return 1;
    }
    b.batch = llama_batch_init(std::max(b.prompt, b.sequences), 0, 1);
    b.prefill(nullptr);
    b.decode(nullptr);
    b.calls = 0;
    printf("{\"version\": \"" VERSION ", %s, keys %s, values %s\", \"threads\": %d}\n", llama_ftype_name(llama_model_ftype(b.model)), ggml_type_name(cp.type_k), ggml_type_name(cp.type_v), llama_n_threads(b.ctx));
    fflush(stdout);
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        std::string command, op;
        in >> command;
        if (command == "show") {
            in >> op;
            std::vector<float> logits;
            b.run(op, &logits);
            printf("{\"result\": [[");
            for (size_t i = 0; i < logits.size(); i++) {
                printf(i ? ", %.9g" : "%.9g", logits[i]);
            }
            printf("]]}\n");
        } else {
            int n = 0;
            in >> n;
            std::getline(in >> std::ws, op);
            const auto start = std::chrono::steady_clock::now();
            for (int i = 0; i < n; i++) {
                b.run(op);
            }
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            // Threads spin for a while when they have nothing to do: the answer waits until
            // they no longer take a processor from who is timed next.
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            printf("{\"seconds\": %.9g}\n", seconds);
        }
        fflush(stdout);
    }
    llama_batch_free(b.batch);
    llama_free(b.ctx);
    llama_model_free(b.model);
    return 0;
}
