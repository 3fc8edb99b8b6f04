// The registry: a model family is a config parser and a manifest; everything else is shared.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/config_fields.h"
#include "spec/model_spec.h"
#include "minimo/result.h"
#include "models/manifest.h"

namespace minimo {

struct ModelFamily {
  const char* model_type;    // config.json "model_type"
  const char* architecture;  // config.json "architectures"[0]
  // Reads every attribute; faults are left in `fields`, whose Finish the caller checks.
  ModelSpec (*parse_config)(ConfigFields& fields);
  // All tensors; MTP tensors are listed for spec.mtp_layers depths.
  Manifest (*manifest)(const ModelSpec& spec);
  int default_mtp_layers;  // depths that a released checkpoint may carry although its config does not say so
};

const std::vector<const ModelFamily*>& ModelFamilies();

struct ModelConfig {
  const ModelFamily* family = nullptr;
  ModelSpec spec;
};

// Parses config.json's text; `where` names the file in messages. eos ids of generation_config.json are not known here.
Result<ModelConfig> ParseModelConfig(const std::string& config_text, const std::string& where);

}  // namespace minimo
