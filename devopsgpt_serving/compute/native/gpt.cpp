// GPT-2's arithmetic for the engine on a processor with AVX-512 or AVX2: one call computes some new tokens of some rows of
// the cache, all layers of it, on one team of threads. Compiled once for each number format, see build.py.
//
// No torch in here: pointers and sizes come from runner.py, which owns the memory.

#include "attention.h"
#include "products.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>

struct Norm {
    const float *weight, *bias;
};

struct Layer {
    Norm ln_1;
    Matrix c_attn, attn_proj;
    Norm ln_2;
    Matrix c_fc, mlp_proj;
    Stored *keys, *values;
};

struct Model {
    int64_t layers, width, heads, places, threads;
    const float *wte, *wpe;  // (vocabulary, width), (positions, width)
    const Layer *layer;
    Norm ln_f;
    Matrix head;
};

struct Room {  // for `tokens`; one of each
    float *x, *wide, *y;  // (tokens, width), (tokens, 4 * width), (tokens, width)
    float *scores;        // (threads, places)
    Inputs inputs;        // (tokens, 4 * width)
};

struct Tokens {
    int64_t count;
    const int64_t *ids, *rows, *positions;
    int64_t asked;
    const int64_t *which;  // (asked,) indices of tokens whose logits are wanted
    float *logits;         // (asked, vocabulary)
};

namespace {

// Threads wait for one another some 120 times a step, most times for less than a microsecond: they spin first, and
// then let others run, whatever OpenMP's own policy is.
class Meeting {
  public:
    void wait(int threads) {
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            taken.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spin = 0; round.load(std::memory_order_acquire) == now; spin++)
            spin < 4000 ? _mm_pause() : (void)sched_yield();
    }

    // The next of the pieces that lie between two meetings: whoever is fast takes more of them, so that a processor
    // with a neighbour on it does not hold up the others.
    int64_t take() { return taken.fetch_add(1, std::memory_order_relaxed); }

  private:
    alignas(64) std::atomic<int64_t> taken{0};
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> round{0};
};

// One thread's view of a step.
struct Worker {
    const Model &model;
    const Tokens &tokens;
    Room room;
    Meeting &meeting;
    int part, parts;

    void run() {
        const int64_t width = model.width;
        mine(tokens.count, [&](int64_t i) {
            const float *token = model.wte + tokens.ids[i] * width, *place = model.wpe + tokens.positions[i] * width;
            for (int64_t d = 0; d < width; d += LANES)
                store(room.x + i * width + d, load(token + d) + load(place + d));
        });
        for (int64_t i = 0; i < model.layers; i++) layer(model.layer[i]);
        mine(tokens.asked, [&](int64_t i) { normalize(room.x + tokens.which[i] * width, model.ln_f, i); });
        meet();
        product(model.head, tokens.asked, Store{tokens.logits, model.head.out});
    }

  private:
    void layer(const Layer &of) {
        const int64_t width = model.width, count = tokens.count;
        const Heads heads{model.heads, width / model.heads, model.places};
        // who computes a token's x here wrote it or waited for it
        mine(count, [&](int64_t i) { normalize(room.x + i * width, of.ln_1, i); });
        meet();
        product(of.c_attn, count, Store{room.wide, 3 * width});
        meet();
        mine(count, [&](int64_t i) {
            const float *qkv = room.wide + i * 3 * width;
            remember(heads, qkv + width, qkv + 2 * width, of.keys, of.values, tokens.rows[i], tokens.positions[i]);
        });
        meet();
        for (int64_t item; (item = meeting.take()) < count * heads.heads;) {
            const int64_t i = item % count, head = item / count, at = head * heads.width;
            const Stored *keys = head_of(of.keys, heads, tokens.rows[i], head);
            const Stored *values = head_of(of.values, heads, tokens.rows[i], head);
            attend(heads.width, room.wide + i * 3 * width + at, keys, values, tokens.positions[i] + 1,
                   room.scores + part * model.places, room.y + i * width + at);
        }
        meet();
        mine(count, [&](int64_t i) { room.inputs.take(i, room.y + i * width, width); });
        meet();
        product(of.attn_proj, count, Add{room.x, width});
        meet();
        mine(count, [&](int64_t i) { normalize(room.x + i * width, of.ln_2, i); });
        meet();
        product(of.c_fc, count, StoreGelu{room.wide, 4 * width});
        meet();
        mine(count, [&](int64_t i) { room.inputs.take(i, room.wide + i * 4 * width, 4 * width); });
        meet();
        product(of.mlp_proj, count, Add{room.x, width});
        meet();
    }

    void meet() { meeting.wait(parts); }

    template <typename Do>
    void mine(int64_t count, const Do &each) {
        for (int64_t i = count * part / parts; i < count * (part + 1) / parts; i++) each(i);
    }

    void normalize(const float *x, const Norm &norm, int64_t to) {
        float *y = room.y + to * model.width;
        layer_norm(x, norm.weight, norm.bias, model.width, y);
        room.inputs.take(to, y, model.width);
    }

    template <typename Put>
    void product(const Matrix &matrix, int64_t count, const Put &put) {
        const int64_t panels = panels_of(matrix), pieces = std::min(panels, (int64_t)parts * 2);
        for (int64_t piece; (piece = meeting.take()) < pieces;)
            multiply(matrix, room.inputs, count, panels * piece / pieces, panels * (piece + 1) / pieces, put);
    }

    struct Store {
        float *to;
        int64_t width;
        void operator()(int64_t token, int64_t output, int64_t count, Floats y) const {
            store_first(to + token * width + output, count, y);
        }
    };
    struct StoreGelu {
        float *to;
        int64_t width;
        void operator()(int64_t token, int64_t output, int64_t count, Floats y) const {
            store_first(to + token * width + output, count, gelu(y));
        }
    };
    struct Add {
        float *to;
        int64_t width;
        void operator()(int64_t token, int64_t output, int64_t count, Floats y) const {
            float *x = to + token * width + output;
            store_first(x, count, load_first(x, count) + y);
        }
    };
};

}  // namespace

extern "C" void extend(const Model *model, const Tokens *tokens, const Room *room) {
    Meeting meeting;
#pragma omp parallel num_threads(model->threads)
    Worker{*model, *tokens, *room, meeting, omp_get_thread_num(), omp_get_num_threads()}.run();
}
