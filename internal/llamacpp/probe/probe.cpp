// probe answers what llama.cpp makes of a GGUF file, line by line of standard input:
//
//   logits ID...      the logits behind each of these ids, a line each, in float32
//   encode HEX        the ids of a text in hexadecimal, with what the file puts around it
//   ordinary HEX      the same where nothing is a special token
//   decode ID...      the text of ids, in hexadecimal, special tokens left out
//   template          the chat template, in hexadecimal
//
// All of it is computed on one core, with keys and values in float32.
#include "llama.h"

#include <cstdio>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

static std::string unhex(const std::string & hex) {
    std::string s;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
        s += (char) std::stoi(hex.substr(i, 2), nullptr, 16);
    }
    return s;
}

static void print_hex(const std::string & s) {
    for (unsigned char c : s) {
        printf("%02x", c);
    }
    printf("\n");
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: probe MODEL.gguf\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = false;
    llama_model * model = llama_model_load_from_file(argv[1], mp);
    if (!model) {
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        std::string command, hex;
        in >> command;
        if (command == "logits") {
            std::vector<llama_token> ids;
            for (llama_token id; in >> id;) {
                ids.push_back(id);
            }
            llama_context_params cp = llama_context_default_params();
            cp.n_ctx = cp.n_batch = cp.n_ubatch = ids.size();
            cp.n_threads = cp.n_threads_batch = 1;
            cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
            cp.type_k = cp.type_v = GGML_TYPE_F32;
            llama_context * ctx = llama_init_from_model(model, cp);
            if (!ctx) {
                return 1;
            }
            llama_batch batch = llama_batch_init(ids.size(), 0, 1);
            for (size_t i = 0; i < ids.size(); i++) {
                batch.token[i] = ids[i];
                batch.pos[i] = i;
                batch.n_seq_id[i] = 1;
                batch.seq_id[i][0] = 0;
                batch.logits[i] = 1;
            }
            batch.n_tokens = ids.size();
            if (llama_decode(ctx, batch) != 0) {
                return 1;
            }
            for (size_t i = 0; i < ids.size(); i++) {
                const float * row = llama_get_logits_ith(ctx, i);
                for (int j = 0; j < n_vocab; j++) {
                    printf(j ? " %.9g" : "%.9g", row[j]);
                }
                printf("\n");
            }
            llama_batch_free(batch);
            llama_free(ctx);
        } else if (command == "encode" || command == "ordinary") {
            in >> hex;
            std::string text = unhex(hex);
            std::vector<llama_token> ids(text.size() + 8);
            int n = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), true, command == "encode");
            if (n < 0) {
                return 1;
            }
            for (int i = 0; i < n; i++) {
                printf(i ? " %d" : "%d", ids[i]);
            }
            printf("\n");
        } else if (command == "decode") {
            std::string text;
            for (llama_token id; in >> id;) {
                char piece[4096];
                int n = llama_token_to_piece(vocab, id, piece, sizeof piece, 0, false);
                if (n < 0) {
                    return 1;
                }
                text.append(piece, n);
            }
            print_hex(text);
        } else if (command == "template") {
            const char * t = llama_model_chat_template(model, nullptr);
            print_hex(t ? t : "");
        } else {
            fprintf(stderr, "unknown command %s\n", command.c_str());
            return 2;
        }
        fflush(stdout);
    }
    llama_model_free(model);
    return 0;
}
