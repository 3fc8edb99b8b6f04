#include "bench/dataset.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "base/error.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;
using Rng = std::mt19937_64;

constexpr int kFirstPlainId = 256;  // byte-level vocabularies keep the bytes, and often the special ids, below
constexpr int kDecodeTries = 10;    // vLLM's bound on decode, encode, adjust

// Limits of a conversation's first turn, vLLM's choice for ShareGPT: [4, 1024] and at most 2048 with the answer.
constexpr int kMinLen = 4;
constexpr int kMaxPromptLen = 1024;
constexpr int kMaxTotalLen = 2048;

int64_t Uniform(Rng* rng, int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(*rng); }

std::pair<int64_t, int64_t> LengthRange(int length, double ratio) {
  return {static_cast<int64_t>(std::floor(length * (1 - ratio))),
          static_cast<int64_t>(std::ceil(length * (1 + ratio)))};
}

// A text that encodes to `target` tokens, or as near as ten rounds of decode, encode and adjust come.
std::string TextOfLength(const PromptCodec& codec, std::vector<int32_t> ids, size_t target, Rng* rng, int* length) {
  std::string text;
  for (int round = 0;; ++round) {
    text = codec.decode(ids);
    ids = codec.encode(text);
    if (ids.size() == target || round == kDecodeTries) break;
    if (ids.size() > target) {
      ids.resize(target);
    } else {
      while (ids.size() < target) {
        ids.push_back(codec.ordinary_ids[static_cast<size_t>(
            Uniform(rng, 0, static_cast<int64_t>(codec.ordinary_ids.size()) - 1))]);
      }
    }
  }
  *length = static_cast<int>(ids.size());
  return text;
}

std::string Words(std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) text += fmt::format("{}w{}", text.empty() ? "" : " ", id);
  return text;
}

Result<std::vector<SampleRequest>> RandomPrompts(const DatasetOptions& o, const PromptCodec* codec) {
  if (!(o.random_range_ratio >= 0 && o.random_range_ratio < 1)) {
    return Errorf("--random-range-ratio {}: expected a number in [0, 1)", o.random_range_ratio);
  }
  const auto [input_low, input_high] = LengthRange(o.random_input_len, o.random_range_ratio);
  auto [output_low, output_high] = LengthRange(o.random_output_len, o.random_range_ratio);
  output_low = std::max<int64_t>(output_low, 1);
  output_high = std::max<int64_t>(output_high, 1);
  if (input_low < 0 || o.random_prefix_len < 0 || input_low + o.random_prefix_len < 1) {
    return Errorf("--random-input-len {}: a prompt needs at least one token", o.random_input_len);
  }
  std::vector<int32_t> vocabulary;
  if (codec != nullptr) {
    vocabulary = codec->ordinary_ids;
  } else {
    for (int32_t id = kFirstPlainId; id < o.vocab_size; ++id) vocabulary.push_back(id);
  }
  if (vocabulary.empty()) return Errorf("a vocabulary of {}: expected more than {}", o.vocab_size, kFirstPlainId);
  const auto size = static_cast<int64_t>(vocabulary.size());
  Rng rng(o.seed);
  std::vector<SampleRequest> requests(static_cast<size_t>(o.num_prompts));
  std::vector<int64_t> lengths(requests.size());
  std::vector<int64_t> offsets(requests.size());
  for (int64_t& length : lengths) length = Uniform(&rng, input_low, input_high);
  for (SampleRequest& r : requests) r.output_len = static_cast<int>(Uniform(&rng, output_low, output_high));
  for (int64_t& offset : offsets) offset = Uniform(&rng, 0, size - 1);
  std::vector<int32_t> prefix(static_cast<size_t>(o.random_prefix_len));
  for (int32_t& id : prefix) id = vocabulary[static_cast<size_t>(Uniform(&rng, 0, size - 1))];
  for (size_t i = 0; i < requests.size(); ++i) {
    SampleRequest& r = requests[i];
    std::vector<int32_t> ids = prefix;
    for (int64_t k = 0; k < lengths[i]; ++k) {  // a run through the vocabulary from a random place: distinct tokens
      ids.push_back(vocabulary[static_cast<size_t>((offsets[i] + static_cast<int64_t>(i) + k) % size)]);
    }
    r.prompt_len = static_cast<int>(ids.size());
    if (codec != nullptr) {
      r.prompt = TextOfLength(*codec, std::move(ids), static_cast<size_t>(r.prompt_len), &rng, &r.prompt_len);
    } else if (o.text_only) {
      r.prompt = Words(ids);
    } else {
      r.prompt_ids = std::move(ids);
    }
  }
  return requests;
}

int Length(const PromptCodec* codec, const std::string& text) {
  return codec == nullptr ? 0 : static_cast<int>(codec->encode(text).size());
}

Result<std::string> ReadFile(const DatasetOptions& o) {
  if (o.path.empty()) return Errorf("--dataset-name {}: needs --dataset-path FILE", o.name);
  std::ifstream in(o.path, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) return Errorf("--dataset-path {}: cannot be read", o.path);
  return text.str();
}

// First human turn and first answer of a ShareGPT entry.
Result<std::vector<SampleRequest>> ShareGpt(const DatasetOptions& o, const PromptCodec* codec) {
  MINIMO_ASSIGN(const std::string text, ReadFile(o));
  const Json data = Json::parse(text, nullptr, false);
  if (!data.is_array()) return Errorf("{}: expected a JSON array of conversations", o.path);
  std::vector<std::pair<std::string, std::string>> turns;
  for (const Json& entry : data) {
    if (!entry.is_object() || !entry.contains("conversations")) continue;
    const Json& talk = entry["conversations"];
    if (!talk.is_array() || talk.size() < 2 || !talk[0].is_object() || !talk[1].is_object()) continue;
    const auto value = [](const Json& turn) {
      const auto it = turn.find("value");
      return it != turn.end() && it->is_string() ? it->get<std::string>() : std::string();
    };
    turns.emplace_back(value(talk[0]), value(talk[1]));
  }
  Rng rng(o.seed);
  if (!o.disable_shuffle) std::shuffle(turns.begin(), turns.end(), rng);
  std::vector<SampleRequest> requests;
  for (const auto& [prompt, answer] : turns) {
    if (requests.size() == static_cast<size_t>(o.num_prompts)) break;
    SampleRequest r;
    r.prompt = prompt;
    if (codec != nullptr) {
      r.prompt_len = Length(codec, prompt);
      r.output_len = o.sharegpt_output_len ? *o.sharegpt_output_len : Length(codec, answer);
      const bool too_short = r.prompt_len < kMinLen || (!o.sharegpt_output_len && r.output_len < kMinLen);
      if (too_short || r.prompt_len > kMaxPromptLen || r.prompt_len + r.output_len > kMaxTotalLen) continue;
    } else if (o.sharegpt_output_len) {
      r.output_len = *o.sharegpt_output_len;
    } else {
      return Errorf("sharegpt: give --tokenizer FOLDER or --sharegpt-output-len, to know how long answers should be");
    }
    requests.push_back(std::move(r));
  }
  if (requests.empty()) return Errorf("{}: no conversation of two turns with usable lengths", o.path);
  return requests;
}

// One JSON object a line: {"prompt": TEXT, "output_tokens": N}, the latter optional.
Result<std::vector<SampleRequest>> Custom(const DatasetOptions& o, const PromptCodec* codec) {
  MINIMO_ASSIGN(const std::string text, ReadFile(o));
  std::istringstream lines(text);
  std::vector<SampleRequest> requests;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json entry = Json::parse(line, nullptr, false);
    if (!entry.is_object() || !entry.contains("prompt") || !entry["prompt"].is_string()) {
      return Errorf("{}, line {}: expected a JSON object with a text \"prompt\"", o.path, number);
    }
    SampleRequest r;
    r.prompt = entry["prompt"].get<std::string>();
    r.output_len = o.custom_output_len;
    if (const auto n = entry.find("output_tokens"); n != entry.end() && n->is_number_integer()) r.output_len = *n;
    requests.push_back(std::move(r));
  }
  if (requests.empty()) return Errorf("{}: no prompts", o.path);
  Rng rng(o.seed);
  if (!o.disable_shuffle) std::shuffle(requests.begin(), requests.end(), rng);
  if (o.num_prompts > 0 && requests.size() > static_cast<size_t>(o.num_prompts)) {
    requests.resize(static_cast<size_t>(o.num_prompts));
  }
  for (SampleRequest& r : requests) {
    if (!o.skip_chat_template && !o.text_only && codec != nullptr && codec->render_chat) {
      MINIMO_ASSIGN(r.prompt, codec->render_chat(r.prompt));
    }
    r.prompt_len = Length(codec, r.prompt);
  }
  return requests;
}

}  // namespace

Result<std::vector<SampleRequest>> MakeDataset(const DatasetOptions& o, const PromptCodec* codec) {
  const bool is_custom = o.name == "custom" || o.name == "file";
  if (o.num_prompts <= 0 && !is_custom) return Errorf("--num-prompts {}: expected a positive number", o.num_prompts);
  Result<std::vector<SampleRequest>> made = Error{};
  if (o.name == "random") {
    if (!o.path.empty()) return Errorf("--dataset-path with --dataset-name random: name the file's format instead");
    made = RandomPrompts(o, codec);
  } else if (o.name == "sharegpt") {
    made = ShareGpt(o, codec);
  } else if (is_custom) {
    made = Custom(o, codec);
  } else {
    return Errorf("--dataset-name {}: expected random, sharegpt, custom or file", o.name);
  }
  MINIMO_ASSIGN(std::vector<SampleRequest> requests, std::move(made));
  const size_t distinct = requests.size();
  if (!o.no_oversample) {
    for (size_t i = 0; requests.size() < static_cast<size_t>(std::max(o.num_prompts, 0)); ++i) {
      requests.push_back(requests[i % distinct]);
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) requests[i].id = fmt::format("{}{}", o.id_prefix, i);
  return requests;
}

}  // namespace minimo::bench
