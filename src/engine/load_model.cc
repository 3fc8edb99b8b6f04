#include "engine/load_model.h"

#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "engine/cuda_backend.h"
#include "engine/memory.h"
#include "layers/copy_weights.h"
#include "models/synth.h"

namespace minimo {
namespace {

Activations ActivationsOf(const EngineOptions& options) {
  return options.activations == "int8" ? Activations::kInt8 : Activations::kExact;
}

// The folder itself, or where it has no tokenizer (or is only the name of a released model) the shipped nano model of
// the same family.
Result<std::string> TextFolder(const std::string& model, const ModelSpec& spec) {
  const auto folder = ResolveModelFolder(model);
  if (folder.ok() && std::ifstream(*folder + "/tokenizer.json").good()) return *folder;
  return ResolveModelFolder(spec.model_type == "minimax_m2" ? "nano-minimax-m2" : "nano-mimo-v2-flash");
}

Result<EngineModel> LoadDummy(const EngineOptions& options) {
  SynthOptions synth;
  synth.layers = options.num_layers;
  const auto shipped = ResolveModelFolder(options.model);
  const std::string source = shipped.ok() ? *shipped : options.model;
  MINIMO_ASSIGN(const ModelConfig config, DummyConfig(source, &synth));
  EngineModel model;
  MINIMO_ASSIGN(model.text_folder, TextFolder(options.model, config.spec));
  if (WantsCuda(options)) {
    LoadedModel shapes;
    shapes.family = config.family;
    shapes.spec = config.spec;
    if (options.num_layers > 0 && options.num_layers < shapes.spec.num_layers()) {
      LogWarn("{}: only the first {} of {} layers", options.model, options.num_layers, shapes.spec.num_layers());
      shapes.spec.layers.resize(static_cast<size_t>(options.num_layers));
    }
    model.on_device = true;
    model.int4_experts = synth.format == SynthFormat::kW4;
    model.model = std::make_shared<const LoadedModel>(std::move(shapes));
    return model;
  }
  int64_t bytes = 0;
  const Synthesizer synthesizer(*config.family, config.spec, synth);
  for (const TensorDeclaration& tensor : synthesizer.tensors()) bytes += tensor.bytes();
  const int64_t available = AvailableMemoryBytes();
  if (available > 0 && bytes > available) {
    return Errorf("{}: its weights take {:.1f} GB, {:.1f} GB of memory are free; use fewer layers (num_layers)",
                  options.model, static_cast<double>(bytes) / 1e9, static_cast<double>(available) / 1e9);
  }
  MINIMO_ASSIGN(LoadedModel loaded, DummyModel(source, synth, options.threads));
  loaded.activations = ActivationsOf(options);
  model.model = std::make_shared<const LoadedModel>(std::move(loaded));
  return model;
}

Status MakeResident(const EngineOptions& options, DecoderWeights* weights) {
  const int64_t bytes = CopyBytes(*weights), available = AvailableMemoryBytes();
  if (available > 0 && bytes > available) {
    return Errorf("{}: its weights take {:.1f} GB, {:.1f} GB of memory are free; load_format auto leaves them mapped",
                  options.model, static_cast<double>(bytes) / 1e9, static_cast<double>(available) / 1e9);
  }
  ThreadTeam team(options.threads);
  if (options.numa == "distribute") team.SpreadOver(UsableNodes());
  return CopyWeights(weights, team);
}

}  // namespace

Result<EngineModel> LoadEngineModel(const EngineOptions& options) {
  if (options.load_format == "dummy") return LoadDummy(options);
  EngineModel model;
  MINIMO_ASSIGN(model.text_folder, ResolveModelFolder(options.model));
  LoadOptions load;
  load.num_layers = options.num_layers;
  load.rank_files = true;
  MINIMO_ASSIGN(LoadedModel loaded, LoadModel(model.text_folder, load));
  loaded.activations = ActivationsOf(options);
  // A file's pages lie where whoever read it first ran.
  const bool place = options.numa == "distribute" && UsableNodes().size() > 1 && options.activations == "exact";
  if ((options.load_format == "resident" || place) && !WantsCuda(options)) {
    MINIMO_TRY(MakeResident(options, &loaded.weights));
    loaded.resident = true;
  }
  model.model = std::make_shared<const LoadedModel>(std::move(loaded));
  return model;
}

}  // namespace minimo
