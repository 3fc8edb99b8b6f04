#include "models/minimax_m2.h"
#include "models/mimo_v2_flash.h"
#include "models/model.h"

#include "base/error.h"

namespace minimo {

const std::vector<const ModelFamily*>& ModelFamilies() {
  static const std::vector<const ModelFamily*> families = {&kMiniMaxM2, &kMiMoV2Flash};
  return families;
}

std::string ScaleName(const std::string& weight_name) { return weight_name + "_scale_inv"; }

PackedNames PackedNamesOf(const std::string& weight_name) {
  return {weight_name + "_packed", weight_name + "_scale", weight_name + "_shape"};
}

Result<ModelConfig> ParseModelConfig(const std::string& config_text, const std::string& where) {
  MINIMO_ASSIGN(ConfigFields fields, ConfigFields::Parse(config_text, where));
  const std::string type = fields.StringOr("model_type", "");
  const std::vector<std::string> architectures = fields.StringListOr("architectures");
  const std::string architecture = architectures.empty() ? "" : architectures[0];
  for (const ModelFamily* family : ModelFamilies()) {
    if (type != family->model_type && !(type.empty() && architecture == family->architecture)) continue;
    ModelConfig config{family, family->parse_config(fields)};
    config.spec.model_type = family->model_type;
    MINIMO_TRY(fields.Finish());
    return config;
  }
  std::string known;
  for (const ModelFamily* family : ModelFamilies()) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family->model_type);
  }
  return Errorf("{}: model_type is \"{}\" (architecture \"{}\"), minimo runs {}", where, type, architecture, known);
}

}  // namespace minimo
