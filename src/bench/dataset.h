// The workloads of `bench serve` and `bench throughput`: random prompts, a ShareGPT file, a file of prompts.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sample_request.h"
#include "minimo/result.h"

namespace minimo::bench {

// What a workload needs of a tokenizer.
struct PromptCodec {
  std::function<std::vector<int32_t>(std::string_view)> encode;  // without special tokens
  std::function<std::string(std::span<const int32_t>)> decode;
  std::vector<int32_t> ordinary_ids;  // every id but the special ones, ascending
  std::function<Result<std::string>(const std::string&)> render_chat;  // one user message as a prompt; may be empty
};

struct DatasetOptions {
  std::string name = "random";  // random, sharegpt, custom (also "file")
  std::string path;
  int num_prompts = 1000;
  uint64_t seed = 0;
  std::string id_prefix;
  int random_input_len = 1024;
  int random_output_len = 128;
  double random_range_ratio = 0;  // lengths uniform in [floor(len * (1 - r)), ceil(len * (1 + r))]
  int random_prefix_len = 0;      // tokens that all prompts share, before the random ones
  int vocab_size = 1280;          // without a codec: ids of random prompts are in [256, vocab_size)
  std::optional<int> sharegpt_output_len;  // instead of the answer's own length
  int custom_output_len = 256;             // of lines without an "output_tokens" of their own
  bool skip_chat_template = false;
  bool disable_shuffle = false;
  bool no_oversample = false;
  bool text_only = false;  // the server takes text alone (chat), so random prompts without a codec become words
};

// `codec` may be null: random prompts are then ids (or words), and lengths of texts are known only to the server.
Result<std::vector<SampleRequest>> MakeDataset(const DatasetOptions& options, const PromptCodec* codec);

}  // namespace minimo::bench
