// Text to token ids and back, as the Hugging Face `tokenizers` library does it for byte-level BPE (tokenizer.json).
// Immutable after loading; every const method may be called from any thread at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo {

struct EncodeOptions {
  // Adds what the post-processor's template adds (a BOS, say). Chat templates write their own: leave it off there.
  bool add_special_tokens = false;
  // Special tokens written out in the text become their ids. Off: their characters are encoded as any other text
  // (added tokens that are not special are recognised all the same, as the library's encode_special_tokens does).
  bool parse_special_tokens = true;
};

class Tokenizer {
 public:
  // Reads tokenizer.json and, where it is there, tokenizer_config.json. The error names the file and the fault.
  static Result<std::unique_ptr<Tokenizer>> FromFolder(const std::string& folder);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Ill-formed UTF-8 in `text` is read as U+FFFD. Fails only where the model's own pattern gives up on the text.
  Result<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Always valid UTF-8: ill-formed bytes become U+FFFD. Ids that are no token are passed over, as the library does.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  // By the token as tokenizer.json writes it: "Ġhello", "<|im_end|>".
  std::optional<int32_t> TokenToId(std::string_view token) const;
  std::optional<std::string_view> IdToToken(int32_t id) const;

  // The bytes that a token stands for, which need not be whole characters; empty if the id is no token.
  std::string_view TokenBytes(int32_t id) const;

  // True for ids that Decode leaves out with skip_special_tokens.
  bool IsSpecial(int32_t id) const;
  // True for tokens of tokenizer.json's "added_tokens", special or not.
  bool IsAdded(int32_t id) const;

  // One more than the largest id. The model's logits may have more rows; those ids are no token.
  int32_t vocab_size() const;
  // The special tokens that tokenizer_config.json names.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace minimo
