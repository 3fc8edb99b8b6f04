// The least a step can take: every byte it must read, at the memory's read bandwidth.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo::bench {

// Bits a parameter takes in memory, scales included.
struct WeightBits {
  std::string name;  // "fp8", "w4", "bf16", "f32"
  double qkv = 16;
  double output = 16;  // o_proj
  double dense = 16;   // dense feed-forward layers
  double experts = 16;
  double router = 32;
  double head = 16;
};

// The released checkpoints: FP8 in 128x128 blocks with float32 scales, router float32, head bf16; o_proj as told.
WeightBits Fp8Bits(bool output_is_bf16);
// 4-bit experts with an 8-bit scale to each group of 32 (4.25 bits), router bf16, the rest FP8.
WeightBits W4Bits();
WeightBits UniformBits(const std::string& name, double bits);
// As `--activations int8` lays them out: wider ones than 4 bits become 8 and a bf16 scale to 128 columns; router as is.
WeightBits TiledBits(WeightBits bits);

// A model as a figure must describe it: shape and number formats.
struct ModelFacts {
  std::string name;
  ModelSpec spec;
  WeightBits bits;
};

// From a checkpoint folder or a folder with config.json alone, or a shipped model's name. `quantization`: none (as the
// files are), fp8, w4, bf16, f32. num_layers > 0: only the first.
Result<ModelFacts> ReadModelFacts(const std::string& model, const std::string& quantization, int num_layers = 0);

nlohmann::json ToJson(const ModelFacts& facts);

// Distinct experts that `tokens` tokens touch in a layer if each chooses top_k at random: E (1 - (1 - k/E)^tokens).
double ExpertsTouched(const MoeSpec& moe, double tokens);

struct StepBytes {
  double attention = 0;
  double router = 0;
  double experts = 0;  // those touched
  double dense = 0;
  double head = 0;
  double kv = 0;  // keys and values read
  double Total() const { return attention + router + experts + dense + head + kv; }
};

// One decode step of `batch` sequences with `context` tokens in the cache each; kv_bits of a cached number.
// With context == window or more, a sliding layer reads its window alone.
StepBytes DecodeBytes(const ModelFacts& model, double batch, double context, double kv_bits);

// Every weight that decoding may read (all experts, head, not the input embedding): resident, and the floor of a long
// prompt, which touches every expert.
double AllWeightBytes(const ModelFacts& model);

// Parameters: all (embedding and head included), and those active for one token (head included).
double TotalParameters(const ModelSpec& spec);
double ActiveParameters(const ModelSpec& spec);

// Floating-point operations of a prompt of `tokens` tokens, causal attention counted, the head left out, per token.
double PrefillFlopPerToken(const ModelSpec& spec, int tokens);

// Milliseconds: the bytes at gbs (1e9 bytes a second).
double FloorMs(const StepBytes& bytes, double gbs);

}  // namespace minimo::bench
