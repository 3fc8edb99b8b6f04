// The released configs as `minimo synth` writes them, and the files of a synthetic checkpoint.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/mapped_file.h"
#include "models/synth.h"
#include "models/w4_config.h"
#include "tensor/buffer.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

using nlohmann::ordered_json;

constexpr int64_t kShardBytes = int64_t{4} << 30;
constexpr int64_t kChunkBytes = int64_t{16} << 20;  // filled and written at a time

// docs/models/minimax-m2.md; MODELS 4.5.
ordered_json MiniMaxConfig(int layers) {
  ordered_json c = {{"architectures", {"MiniMaxM2ForCausalLM"}}, {"model_type", "minimax_m2"}, {"head_dim", 128},
          {"hidden_act", "silu"}, {"hidden_size", 3072}, {"intermediate_size", 1536},
          {"max_position_embeddings", 196608}, {"num_attention_heads", 48}, {"num_experts_per_tok", 8},
          {"num_hidden_layers", layers}, {"num_key_value_heads", 8}, {"num_local_experts", 256},
          {"qk_norm_type", "per_layer"}, {"rms_norm_eps", 1e-6}, {"rope_theta", 5000000}, {"rotary_dim", 64},
          {"scoring_func", "sigmoid"}, {"shared_intermediate_size", 0}, {"sliding_window", nullptr},
          {"tie_word_embeddings", false}, {"use_qk_norm", true}, {"use_routing_bias", true}, {"vocab_size", 200064}};
  c["attn_type_list"] = std::vector<int>(static_cast<size_t>(layers), 1);
  return c;
}

// docs/models/mimo-v2-flash.md; MODELS 4.1.
ordered_json MiMoConfig(int layers) {
  ordered_json c = {{"architectures", {"MiMoV2FlashForCausalLM"}}, {"model_type", "mimo_v2_flash"},
          {"add_full_attention_sink_bias", false}, {"add_swa_attention_sink_bias", true}, {"attention_bias", false},
          {"attention_value_scale", 0.707}, {"head_dim", 192}, {"hidden_act", "silu"}, {"hidden_size", 4096},
          {"intermediate_size", 16384}, {"layernorm_epsilon", 1e-5}, {"max_position_embeddings", 262144},
          {"moe_intermediate_size", 2048}, {"n_group", 1}, {"n_routed_experts", 256}, {"n_shared_experts", nullptr},
          {"norm_topk_prob", true}, {"num_attention_heads", 64}, {"num_experts_per_tok", 8},
          {"num_hidden_layers", layers}, {"num_key_value_heads", 4}, {"partial_rotary_factor", 0.334},
          {"rope_theta", 5000000}, {"routed_scaling_factor", nullptr}, {"scoring_func", "sigmoid"},
          {"sliding_window", 128}, {"sliding_window_size", 128}, {"swa_head_dim", 192},
          {"swa_num_attention_heads", 64}, {"swa_num_key_value_heads", 8}, {"swa_rope_theta", 10000},
          {"swa_v_head_dim", 128}, {"tie_word_embeddings", false}, {"topk_group", 1}, {"topk_method", "noaux_tc"},
          {"v_head_dim", 128}, {"vocab_size", 152576}};
  std::vector<int> sliding, moe;
  for (int i = 0; i < layers; ++i) {  // full attention in layers 0, 5, 11, 17, ... 47
    sliding.push_back(i == 0 || i % 6 == 5 ? 0 : 1);
    moe.push_back(i == 0 ? 0 : 1);
  }
  c["hybrid_layer_pattern"] = sliding;
  c["moe_layer_freq"] = moe;
  return c;
}

ordered_json Quantization(const SynthOptions& options) {
  if (options.format == SynthFormat::kFp8) {
    return {
        {"quant_method", "fp8"}, {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}}};
  }
  return W4QuantizationConfig(options.quantize_all ? "Linear" : "re:.*experts.*");
}

// The shipped nano model of the same family lends its tokenizer, template and sampling defaults.
const char* NanoOf(const std::string& like) { return like == "minimax-m2" ? "nano-minimax-m2" : "nano-mimo-v2-flash"; }

Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) return Errorf("{}: cannot write", path.string());
  return {};
}

Status CopySmallFiles(const std::string& like, const fs::path& folder) {
  MINIMO_ASSIGN(const std::string nano, ResolveModelFolder(NanoOf(like)));
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}) {
    std::error_code fault;
    fs::copy_file(fs::path(nano) / name, folder / name, fs::copy_options::overwrite_existing, fault);
    if (fault) return Errorf("{}: cannot copy: {}", (folder / name).string(), fault.message());
  }
  return {};
}

Status WriteShard(const std::string& path, const Synthesizer& synthesizer, size_t first, size_t last, int64_t total,
                  int64_t* done, const std::function<bool(int64_t, int64_t)>& progress) {
  const std::vector<TensorDeclaration> part(synthesizer.tensors().begin() + static_cast<int64_t>(first),
                                            synthesizer.tensors().begin() + static_cast<int64_t>(last));
  MINIMO_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(path, part, {{"format", "pt"}}));
  Buffer<std::byte> chunk(static_cast<size_t>(kChunkBytes));
  for (size_t i = first; i < last; ++i) {
    const TensorDeclaration& t = synthesizer.tensors()[i];
    const int64_t rows = t.shape[0], row_bytes = t.bytes() / std::max<int64_t>(rows, 1);
    const int64_t step = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(row_bytes, 1));
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t end = std::min(rows, row + step);
      synthesizer.Fill(i, row, end, chunk.data());
      MINIMO_TRY(writer.Append(chunk.data(), static_cast<size_t>((end - row) * row_bytes)));
      *done += (end - row) * row_bytes;
      if (progress && !progress(*done, total)) return Errorf("{}: interrupted", path);
    }
  }
  return writer.Finish();
}

}  // namespace

Result<std::string> SynthConfig(const SynthOptions& options) {
  const bool minimax = options.like == "minimax-m2";
  if (!minimax && options.like != "mimo-v2-flash") {
    return Errorf("--like is \"{}\", expected minimax-m2 or mimo-v2-flash", options.like);
  }
  const int whole = minimax ? 62 : 48;
  const int layers = options.layers > 0 ? options.layers : whole;
  if (layers > whole) return Errorf("{} layers asked for, {} has {}", layers, options.like, whole);
  ordered_json config = minimax ? MiniMaxConfig(layers) : MiMoConfig(layers);
  if (options.vocab > 0) config["vocab_size"] = options.vocab;
  MINIMO_ASSIGN(const std::string nano, ResolveModelFolder(NanoOf(options.like)));
  MINIMO_ASSIGN(const std::string nano_text, ReadConfigText(nano));
  const auto nano_config = ordered_json::parse(nano_text, nullptr, false);  // its tokenizer's ids end the text
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    if (nano_config.contains(key)) config[key] = nano_config[key];
  }
  if (options.format != SynthFormat::kBf16) config["quantization_config"] = Quantization(options);
  config["dtype"] = "bfloat16";
  return config.dump(2) + "\n";
}

Result<ModelConfig> DummyConfig(const std::string& folder_or_like, SynthOptions* options) {
  if (folder_or_like == "minimax-m2" || folder_or_like == "mimo-v2-flash") {
    options->like = folder_or_like;
    MINIMO_ASSIGN(const std::string text, SynthConfig(*options));
    return ParseModelConfig(text, folder_or_like);
  }
  MINIMO_ASSIGN(ModelConfig config, ReadModelConfig(folder_or_like));
  MINIMO_ASSIGN(const std::string text, ReadConfigText(folder_or_like));
  const auto json = ordered_json::parse(text, nullptr, false);
  const auto quantization = json.value("quantization_config", ordered_json());
  const std::string method = quantization.is_object() ? quantization.value("quant_method", "") : "";
  options->format = method == "fp8"                 ? SynthFormat::kFp8
                    : method == "compressed-tensors" ? SynthFormat::kW4
                                                     : SynthFormat::kBf16;
  if (options->layers > 0 && options->layers < config.spec.num_layers()) {
    config.spec.layers.resize(static_cast<size_t>(options->layers));
  }
  return config;
}

Status WriteSynthetic(const std::string& folder, const SynthOptions& options,
                      const std::function<bool(int64_t, int64_t)>& progress) {
  MINIMO_ASSIGN(const std::string text, SynthConfig(options));
  MINIMO_ASSIGN(const ModelConfig config, ParseModelConfig(text, options.like));
  const fs::path root(folder);
  std::error_code fault;
  if (fs::exists(root / "config.json", fault)) {
    return Errorf("{}: holds a checkpoint already; name another folder", folder);
  }
  fs::create_directories(root, fault);
  if (fault) return Errorf("{}: cannot create: {}", folder, fault.message());

  const Synthesizer synthesizer(*config.family, config.spec, options);
  std::vector<size_t> cuts = {0};
  int64_t total = 0, in_shard = 0;
  for (size_t i = 0; i < synthesizer.tensors().size(); ++i) {
    const int64_t bytes = synthesizer.tensors()[i].bytes();
    if (in_shard > 0 && in_shard + bytes > kShardBytes) {
      cuts.push_back(i);
      in_shard = 0;
    }
    in_shard += bytes;
    total += bytes;
  }
  cuts.push_back(synthesizer.tensors().size());
  ordered_json map = ordered_json::object();
  int64_t done = 0;
  for (size_t shard = 0; shard + 1 < cuts.size(); ++shard) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, cuts.size() - 1);
    MINIMO_TRY(WriteShard((root / name).string(), synthesizer, cuts[shard], cuts[shard + 1], total, &done, progress));
    for (size_t i = cuts[shard]; i < cuts[shard + 1]; ++i) map[synthesizer.tensors()[i].name] = name;
  }
  const ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  MINIMO_TRY(WriteText(root / "model.safetensors.index.json", index.dump(1)));
  MINIMO_TRY(CopySmallFiles(options.like, root));
  return WriteText(root / "config.json", text);  // last: a folder with a config is whole
}

}  // namespace minimo
