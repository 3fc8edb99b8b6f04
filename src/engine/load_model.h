// The model of an engine: a checkpoint's weights, or random ones of the same shapes, and where its text files lie.
#pragma once

#include <memory>
#include <string>

#include "minimo/engine.h"
#include "minimo/result.h"
#include "models/loader.h"

namespace minimo {

struct EngineModel {
  std::shared_ptr<const LoadedModel> model;
  std::string text_folder;  // tokenizer.json, generation_config.json
  // Dummy weights that a device makes itself: `model` has a spec and no weights.
  bool on_device = false;
  bool int4_experts = false;  // on_device: the config is of a 4-bit checkpoint
};

Result<EngineModel> LoadEngineModel(const EngineOptions& options);

}  // namespace minimo
