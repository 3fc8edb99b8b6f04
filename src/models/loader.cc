#include "models/loader.h"

#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "models/block_scales.h"
#include "models/w4_config.h"
#include "models/weight_binding.h"
#include "models/weight_slots.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

// The block size is part of the format; other methods are refused before anything is read.
void CheckQuantization(const std::string& config_text, ConfigFields& fields) {
  const auto quant = fields.Object("quantization_config");
  if (!quant) return;
  const std::string method = quant->StringOr("quant_method", "");
  if (method == "compressed-tensors") {
    for (std::string& fault : FaultsOfCompressedTensors(config_text)) fields.Fault(std::move(fault));
    return;
  }
  if (method != "fp8") {
    fields.Fault(fmt::format("quantization_config.quant_method is \"{}\", minimo reads \"fp8\" (128x128 blocks) and "
                             "\"compressed-tensors\" (pack-quantized int4)", method));
    return;
  }
  quant->Only("weight_block_size", "[128,128]");
  quant->Ignore({"activation_scheme", "fmt", "ignored_layers", "modules_to_not_convert", "store_dtype"});
  fields.Merge(*quant);
}

// MTP depths that the files hold from 0 on, whatever the config says.
int CountMtpLayers(const Checkpoint& checkpoint, const ModelFamily& family) {
  int depth = 0;
  while (depth < family.default_mtp_layers + 16 &&
         checkpoint.Find(fmt::format("model.mtp.layers.{}.enorm.weight", depth)) != nullptr) {
    ++depth;
  }
  return depth;
}

void Bind(const Manifest& manifest, const ModelSpec& spec, WeightBinder* binder, DecoderWeights* weights,
          int* fused_kv_layers) {
  const TensorSpec* k = nullptr;
  for (const TensorSpec& t : manifest) {
    if (t.mtp) continue;
    if (t.part == TensorPart::kK) {
      k = &t;  // bound together with V, which follows
    } else if (t.part == TensorPart::kV) {
      LayerWeights& layer = weights->layers[t.layer];
      *fused_kv_layers += binder->KeyValue(*k, t, spec.layers[t.layer].attention, &layer.k, &layer.v);
    } else if (Vector* vector = VectorSlot(t, weights)) {
      *vector = binder->Floats(t);
    } else if (Weight* matrix = MatrixSlot(t, weights)) {
      *matrix = binder->Matrix(t);
    }
  }
}

// Tensors that no manifest entry asks for. `manifest` covers every layer, also those left out by num_layers.
std::vector<std::string> UnknownTensors(const Checkpoint& checkpoint, const Manifest& manifest) {
  std::set<std::string> known;
  for (const TensorSpec& t : manifest) {
    known.insert(t.name);
    if (!t.quantizable) continue;
    const PackedNames packed = PackedNamesOf(t.name);
    known.insert({ScaleName(t.name), packed.packed, packed.scale, packed.shape});
  }
  std::vector<std::string> unknown;
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (!known.contains(name)) unknown.push_back(name);
  }
  return unknown;
}

// An incomplete MTP stack is told and left out; it is never a failure.
void CheckMtp(const Manifest& manifest, const Checkpoint& checkpoint, LoadedModel* model) {
  std::vector<std::string> missing;
  for (const TensorSpec& t : manifest) {
    if (t.mtp && checkpoint.Find(t.name) == nullptr) missing.push_back(t.name);
  }
  if (missing.empty()) return;
  model->notes.push_back(fmt::format("MTP layers are incomplete and left out, missing: {}", Listed(missing)));
  model->spec.mtp_layers = 0;
}

}  // namespace

Result<std::string> ResolveModelFolder(const std::string& model) {
  if (model.empty()) return Error{"the model's name is empty; give a checkpoint folder or a shipped model's name"};
  std::error_code ignored;
  if (fs::exists(model, ignored) || model.find('/') != std::string::npos) return model;
  for (const char* root : {MINIMO_MODELS_DIR, MINIMO_INSTALLED_MODELS_DIR}) {
    const fs::path shipped = fs::path(root) / model;
    if (fs::exists(shipped, ignored)) return shipped.string();
  }
  return Errorf("{}: no such folder, and no shipped model of this name (nano-minimax-m2, nano-mimo-v2-flash)", model);
}

Result<ModelConfig> ReadModelConfig(const std::string& folder) {
  MINIMO_ASSIGN(const std::string text, ReadConfigText(folder));
  const std::string where = (fs::path(folder) / "config.json").string();
  MINIMO_ASSIGN(ModelConfig config, ParseModelConfig(text, where));
  MINIMO_ASSIGN(ConfigFields fields, ConfigFields::Parse(text, where));
  CheckQuantization(text, fields);
  fields.IgnoreAll();
  MINIMO_TRY(fields.Finish());
  return config;
}

Result<LoadedModel> BindModel(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint,
                              const LoadOptions& options) {
  LoadedModel model;
  model.family = config.family;
  model.spec = config.spec;
  model.checkpoint = checkpoint;
  model.folder = checkpoint->folder();
  model.spec.mtp_layers = CountMtpLayers(*checkpoint, *model.family);

  const Manifest whole = model.family->manifest(model.spec);
  if (const auto unknown = UnknownTensors(*checkpoint, whole); !unknown.empty()) {
    model.notes.push_back(fmt::format("tensors that the model does not have are left out: {}", Listed(unknown)));
  }
  CheckMtp(whole, *checkpoint, &model);
  if (options.num_layers > 0 && options.num_layers < model.spec.num_layers()) {
    model.spec.layers.resize(static_cast<size_t>(options.num_layers));
    model.notes.push_back(fmt::format("only the first {} layers are loaded", options.num_layers));
  }

  DecoderWeights& weights = model.weights;
  weights = EmptyWeights(model.spec);
  BindingFaults faults;
  WeightBinder binder(*checkpoint, &faults);
  Bind(model.family->manifest(model.spec), model.spec, &binder, &weights, &model.fused_kv_layers);
  if (model.spec.tied_embeddings) weights.lm_head = weights.embedding;
  if (const Status bound = faults.AsStatus(checkpoint->folder()); !bound.ok()) {
    std::string message = bound.error().message;
    for (const std::string& note : model.notes) message += "; " + note;
    return Error{message};
  }
  for (const std::string& note : model.notes) LogWarn("{}: {}", checkpoint->folder(), note);
  return model;
}

Result<LoadedModel> LoadModel(const std::string& folder, const LoadOptions& options) {
  MINIMO_ASSIGN(const ModelConfig config, ReadModelConfig(folder));
  MINIMO_ASSIGN(std::optional<ShardLayout> layout, ReadShardLayout(folder));
  if (layout && !options.rank_files) {
    return Errorf(
        "{}: holds the files of {} ranks, not a whole checkpoint; name the one they were made from, or run them "
        "with run or serve",
        folder, layout->ranks);
  }
  if (layout) {
    LoadedModel model;
    model.family = config.family;
    model.spec = config.spec;
    model.spec.mtp_layers = layout->mtp_layers;
    if (options.num_layers > 0 && options.num_layers < model.spec.num_layers()) {
      model.spec.layers.resize(static_cast<size_t>(options.num_layers));
    }
    model.folder = folder;
    model.shards = std::move(layout);
    return model;
  }
  MINIMO_ASSIGN(Checkpoint checkpoint, Checkpoint::Open(folder));
  ModelSpec whole = config.spec;
  whole.mtp_layers = CountMtpLayers(checkpoint, *config.family);
  NameBlockScales(config.family->manifest(whole), &checkpoint);
  return BindModel(config, std::make_shared<const Checkpoint>(std::move(checkpoint)), options);
}

}  // namespace minimo
