// Byte-pair encoding of one word: repeatedly join the pair of neighbours of lowest rank, leftmost first.
// Immutable but for a cache of words behind locks; Encode may be called from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "minimo/result.h"
#include "text/string_arena.h"

namespace minimo {

// The "model" of a tokenizer.json as written, tokens in the byte-level alphabet.
struct BpeSpec {
  StringArena tokens;              // vocabulary, with
  std::vector<int32_t> token_ids;  // the id of each
  StringArena merges;              // two entries a merge, left and right, in order of rank
  std::optional<std::string> unk_token;
  bool fuse_unk = false;
  bool ignore_merges = false;
};

class Bpe {
 public:
  using TokenIds = std::unordered_map<std::string_view, int32_t>;

  // `ids` maps every token of `spec`; neither is kept.
  static Result<std::unique_ptr<Bpe>> Create(const BpeSpec& spec, const TokenIds& ids);
  ~Bpe();

  // Working memory of one caller, reused from word to word.
  struct Scratch {
    struct Symbol {
      int32_t id;    // -1: joined to the one before
      int32_t prev;  // index, -1 at the ends
      int32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };

  // Appends the ids of `word`, raw bytes, at most 2^31 - 1 of them.
  void Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  class PairTable;
  class WordCache;
  Bpe();
  void Merge(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;
  void SetSymbols(std::string_view word, Scratch* scratch) const;

  std::array<int32_t, 256> byte_ids_;  // -1: the byte is not in the vocabulary
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
  std::unique_ptr<PairTable> pairs_;
  std::unordered_map<std::string, int32_t> whole_words_;  // by raw bytes; only with ignore_merges
  std::unique_ptr<WordCache> cache_;
};

}  // namespace minimo
