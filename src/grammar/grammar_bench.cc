// The cost of a token's mask, on the full Qwen2 vocabulary (151,665 tokens; env MINIMO_SHARED or ../shared) and on a
// made one of 200,000: texts are written at random under a grammar, with everything already met once ("warm") and
// with a grammar met for the first time ("cold": the schema is new, the vocabulary is not).
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "grammar/grammar_matcher.h"
#include "grammar/structured_output.h"
#include "grammar/tokenizer_vocabulary.h"

namespace minimo::grammar {
namespace {

constexpr const char* kSchema = R"({
  "type": "object",
  "properties": {
    "title": {"type": "string"},
    "summary": {"type": "string", "maxLength": 400},
    "authors": {"type": "array", "minItems": 1, "items": {
      "type": "object",
      "properties": {"name": {"type": "string"}, "email": {"type": "string", "format": "email"}},
      "required": ["name"]}},
    "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
    "score": {"type": "number"},
    "kind": {"enum": ["paper", "book", "thesis"]},
    "links": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "extra": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
  },
  "required": ["title", "summary", "authors", "year", "kind", "links", "extra"]
})";

Vocabulary Qwen2() {
  static const Vocabulary vocabulary = []() -> Vocabulary {
    const char* shared = std::getenv("MINIMO_SHARED");
    const std::string root = shared != nullptr ? shared : "../shared";
    const auto tokenizer = Tokenizer::FromFolder(root + "/tokenizers/qwen2");
    if (!tokenizer.ok()) return nullptr;
    return VocabularyOf(**tokenizer, std::vector<int32_t>{151645});
  }();
  return vocabulary;
}

// The 256 bytes and random words with the marks around them that real vocabularies have.
Vocabulary Synthetic() {
  static const Vocabulary vocabulary = [] {
    std::mt19937 rng(1);
    std::vector<TokenVocabulary::Token> tokens;
    for (int b = 0; b < 256; ++b) tokens.push_back({std::string(1, static_cast<char>(b))});
    const char* before[] = {"", "", "", " ", " ", " ", "\n", "\"", " \"", "(", "_", "."};
    const char* after[] = {"", "", "", "", "", "", "", "\"", "\":", "\",", ",", "(", ";", "\"}", "\n"};
    while (tokens.size() < 200000) {
      std::string word = before[rng() % 12];
      for (size_t i = 1 + rng() % 10; i > 0; --i) word += static_cast<char>('a' + rng() % 26);
      tokens.push_back({word + after[rng() % 15]});
    }
    tokens.push_back({"<eos>", true, true});
    return TokenVocabulary::Create(std::move(tokens), {200000});
  }();
  return vocabulary;
}

// Random texts, of at most `free_tokens` at random and then the shortest way out; the masks alone are timed.
struct Walk {
  double mask_seconds = 0, worst_seconds = 0, accept_seconds = 0;
  int64_t masks = 0;
};

void WalkOnce(const TokenMatcher& prototype, const TokenVocabulary& vocabulary, uint32_t seed, Walk* walk) {
  using Clock = std::chrono::steady_clock;
  std::mt19937 rng(seed);
  const auto matcher = prototype.Clone();
  std::vector<uint32_t> mask(vocabulary.mask_words());
  for (int step = 0; step < 300 && !matcher->Finished(); ++step) {
    std::fill(mask.begin(), mask.end(), 0);
    const auto begin = Clock::now();
    matcher->FillMask(mask.data(), mask.size());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    walk->mask_seconds += seconds;
    walk->worst_seconds = std::max(walk->worst_seconds, seconds);
    ++walk->masks;
    int32_t token = -1;
    for (int tries = 0; token < 0 && tries < 2000; ++tries) {  // mostly whatever is allowed
      const int32_t t = static_cast<int32_t>(rng() % static_cast<uint32_t>(vocabulary.size()));
      if (mask[t / 32] >> (t % 32) & 1) token = t;
    }
    if (token < 0 || rng() % 8 == 0) {  // now and then what leads on
      uint32_t best = UINT32_MAX;
      for (int32_t t = 0; t < vocabulary.size(); ++t) {
        if (!(mask[t / 32] >> (t % 32) & 1) || vocabulary.Symbols(t).size() != 1) continue;
        const auto next = matcher->Clone();
        if (!next->Accept(t)) continue;
        const uint32_t left = static_cast<GrammarMatcher*>(next.get())->MinBytesToEnd();
        if (left < best) best = left, token = t;
      }
    }
    if (token < 0) return;
    const auto accept_begin = Clock::now();
    if (!matcher->Accept(token)) return;
    walk->accept_seconds += std::chrono::duration<double>(Clock::now() - accept_begin).count();
  }
}

void RunMasks(benchmark::State& state, const Vocabulary& vocabulary, bool cold, bool json_object = false) {
  if (vocabulary == nullptr) {
    state.SkipWithError("the Qwen2 tokenizer is not there");
    return;
  }
  const auto compile = [&] {
    return json_object ? CompileJsonObject(vocabulary) : CompileJsonSchema(kSchema, vocabulary);
  };
  auto matcher = compile();
  Walk warm_up;
  for (uint32_t seed = 0; seed < 30; ++seed) WalkOnce(**matcher, *vocabulary, seed, &warm_up);
  Walk walk;
  uint32_t seed = cold ? 0 : 1000;  // warm: other texts than the first
  for (auto _ : state) {
    if (cold) matcher = compile();
    WalkOnce(**matcher, *vocabulary, seed++, &walk);
  }
  state.counters["mask_us"] = 1e6 * walk.mask_seconds / static_cast<double>(walk.masks);
  state.counters["worst_us"] = 1e6 * walk.worst_seconds;
  state.counters["accept_us"] = 1e6 * walk.accept_seconds / static_cast<double>(walk.masks);
  state.counters["masks"] = static_cast<double>(walk.masks);
}

void SchemaWarmQwen2(benchmark::State& state) { RunMasks(state, Qwen2(), false); }
void SchemaColdQwen2(benchmark::State& state) { RunMasks(state, Qwen2(), true); }
void SchemaWarm200k(benchmark::State& state) { RunMasks(state, Synthetic(), false); }
void SchemaCold200k(benchmark::State& state) { RunMasks(state, Synthetic(), true); }
void ObjectWarmQwen2(benchmark::State& state) { RunMasks(state, Qwen2(), false, true); }
void ObjectWarm200k(benchmark::State& state) { RunMasks(state, Synthetic(), false, true); }
BENCHMARK(SchemaWarmQwen2)->Iterations(30);
BENCHMARK(SchemaColdQwen2)->Iterations(30);
BENCHMARK(SchemaWarm200k)->Iterations(30);
BENCHMARK(SchemaCold200k)->Iterations(30);
BENCHMARK(ObjectWarmQwen2)->Iterations(30);
BENCHMARK(ObjectWarm200k)->Iterations(30);

void CompileSchema(benchmark::State& state) {
  const Vocabulary vocabulary = Synthetic();
  for (auto _ : state) benchmark::DoNotOptimize(CompileJsonSchema(kSchema, vocabulary).ok());
}
BENCHMARK(CompileSchema);

}  // namespace
}  // namespace minimo::grammar

BENCHMARK_MAIN();
