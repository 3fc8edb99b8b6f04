#include "text/tokenizer_file.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "text/json_fields.h"
#include "text/tokenizer_sax.h"

namespace minimo {
namespace {

using Json = nlohmann::json;

Result<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Errorf("cannot be opened");
  std::ostringstream text;
  text << file.rdbuf();
  if (!file && !file.eof()) return Errorf("cannot be read");
  std::string result = std::move(text).str();
  if (result.empty()) return Errorf("is empty");
  return result;
}

Result<AddedToken> ParseAddedToken(const Json& json, const std::string& owner) {
  AddedToken token;
  MINIMO_ASSIGN(token.content, StringField(json, "content", owner));
  MINIMO_ASSIGN(token.single_word, BoolField(json, "single_word", std::nullopt, owner));
  MINIMO_ASSIGN(token.lstrip, BoolField(json, "lstrip", std::nullopt, owner));
  MINIMO_ASSIGN(token.rstrip, BoolField(json, "rstrip", std::nullopt, owner));
  MINIMO_ASSIGN(token.normalized, BoolField(json, "normalized", std::nullopt, owner));
  MINIMO_ASSIGN(token.special, BoolField(json, "special", std::nullopt, owner));
  return token;
}

Result<std::vector<StatedAddedToken>> ParseAddedTokens(const Json& json) {
  std::vector<StatedAddedToken> tokens;
  if (json.is_null()) return tokens;
  if (!json.is_array()) return Errorf("added_tokens is no list");
  for (const Json& item : json) {
    const std::string owner = fmt::format("added_tokens[{}]", tokens.size());
    StatedAddedToken stated;
    MINIMO_ASSIGN(stated.token, ParseAddedToken(item, owner));
    const Json& id = FieldOrNull(item, "id");
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) return Errorf("{} has no \"id\"", owner);
    stated.id = id.get<int32_t>();
    tokens.push_back(std::move(stated));
  }
  return tokens;
}

Status ParseModel(const Json& json, BpeSpec* model) {
  if (!json.is_object()) return Errorf("has no \"model\"");
  const Json& type = FieldOrNull(json, "type");
  if (!type.is_null() && type != "BPE") return Errorf("model.type is {}; only \"BPE\" is supported", type.dump());
  for (const char* part : {"vocab", "merges"}) {
    if (FieldOrNull(json, part) != true) return Errorf("model has no \"{}\" of the right kind", part);
  }
  const Json& dropout = FieldOrNull(json, "dropout");
  if (!dropout.is_null() && dropout != 0.0) return Errorf("model.dropout is {}, not null", dropout.dump());
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = FieldOrNull(json, affix);
    if (!value.is_null() && value != "") return Errorf("model.{} {} is not supported", affix, value.dump());
  }
  const Json& unk = FieldOrNull(json, "unk_token");
  if (unk.is_string()) model->unk_token = unk.get<std::string>();
  MINIMO_ASSIGN(model->fuse_unk, BoolField(json, "fuse_unk", false, "model"));
  MINIMO_ASSIGN(model->ignore_merges, BoolField(json, "ignore_merges", false, "model"));
  MINIMO_ASSIGN(const bool byte_fallback, BoolField(json, "byte_fallback", false, "model"));
  if (byte_fallback) return Errorf("model.byte_fallback is not supported; a byte-level vocabulary needs none");
  return {};
}

Result<PostTemplate> ParseTemplate(const Json& json) {
  PostTemplate result;
  const Json& single = FieldOrNull(json, "single");
  if (!single.is_array()) return Errorf("post_processor TemplateProcessing has no list \"single\"");
  for (const Json& piece : single) {
    const Json& sequence = FieldOrNull(piece, "Sequence");
    const Json& special = FieldOrNull(piece, "SpecialToken");
    if (FieldOrNull(sequence, "id") == "A") {
      result.push_back({true, {}});
      continue;
    }
    const Json& name = FieldOrNull(special, "id");
    if (!name.is_string()) return Errorf("post_processor TemplateProcessing has a piece of no known kind");
    const std::string& token = name.get_ref<const std::string&>();
    const Json& ids = FieldOrNull(FieldOrNull(FieldOrNull(json, "special_tokens"), token.c_str()), "ids");
    if (!ids.is_array()) return Errorf("post_processor TemplateProcessing does not define \"{}\"", token);
    TemplatePiece added;
    for (const Json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        return Errorf("post_processor TemplateProcessing gives \"{}\" an id that is none", token);
      }
      added.ids.push_back(id.get<int32_t>());
    }
    result.push_back(std::move(added));
  }
  return result;
}

Status ParsePostProcessor(const Json& json, std::vector<PostTemplate>* templates) {
  if (json.is_null()) return {};
  MINIMO_ASSIGN(const std::string type, StringField(json, "type", "post_processor"));
  if (type == "ByteLevel") return {};  // moves offsets, not ids
  if (type == "TemplateProcessing") {
    MINIMO_ASSIGN(PostTemplate parsed, ParseTemplate(json));
    templates->push_back(std::move(parsed));
    return {};
  }
  if (type == "Sequence") {
    const Json& parts = FieldOrNull(json, "processors");
    if (!parts.is_array()) return Errorf("post_processor Sequence has no list \"processors\"");
    for (const Json& part : parts) MINIMO_TRY(ParsePostProcessor(part, templates));
    return {};
  }
  return Errorf("post_processor \"{}\" is not supported; ByteLevel, TemplateProcessing and Sequence are", type);
}

Status CheckDecoder(const Json& json) {
  if (json.is_null()) return Errorf("decoder is missing; ByteLevel is expected");
  MINIMO_ASSIGN(const std::string type, StringField(json, "type", "decoder"));
  if (type == "ByteLevel") return {};
  const Json& parts = FieldOrNull(json, "decoders");
  if (type == "Sequence" && parts.is_array() && parts.size() == 1) return CheckDecoder(parts[0]);
  return Errorf("decoder \"{}\" is not supported; ByteLevel is", type);
}

Result<TokenizerFile> ParseTokenizerFile(const std::string& text) {
  TokenizerFile file;
  Json json;
  MINIMO_TRY(ParseTokenizerJson(text, &file.model, &json));
  if (!json.is_object()) return Errorf("is not a JSON object");
  const Json& version = FieldOrNull(json, "version");
  if (!version.is_null() && version != "1.0") return Errorf("version is {}, not \"1.0\"", version.dump());
  MINIMO_TRY(ParseModel(FieldOrNull(json, "model"), &file.model));
  MINIMO_ASSIGN(file.added_tokens, ParseAddedTokens(FieldOrNull(json, "added_tokens")));
  MINIMO_ASSIGN(file.normalizer, Normalizer::Parse(FieldOrNull(json, "normalizer")));
  MINIMO_ASSIGN(file.pre_tokenizer, PreTokenizer::Parse(FieldOrNull(json, "pre_tokenizer")));
  MINIMO_TRY(ParsePostProcessor(FieldOrNull(json, "post_processor"), &file.post_templates));
  MINIMO_TRY(CheckDecoder(FieldOrNull(json, "decoder")));
  return file;
}

// A token is written as its text or as an object with "content".
std::string TokenContent(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  const Json& content = FieldOrNull(json, "content");
  return content.is_string() ? content.get<std::string>() : std::string();
}

Result<TokenizerConfig> ParseTokenizerConfig(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Errorf("is not a JSON object, or is cut short");
  TokenizerConfig config;
  for (const char* role :
       {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    const Json& value = FieldOrNull(json, role);
    if (value.is_null() || value == "") continue;
    const std::string content = TokenContent(value);
    if (content.empty()) return Errorf("{} is {}, which names no token", role, value.dump());
    config.special_tokens.emplace_back(role, content);
  }
  const Json& additional = FieldOrNull(json, "additional_special_tokens");
  if (additional.is_array()) {
    for (const Json& value : additional) {
      const std::string content = TokenContent(value);
      if (!content.empty()) config.special_tokens.emplace_back("additional_special_tokens", content);
    }
  }
  const Json& added = FieldOrNull(json, "added_tokens_decoder");
  if (!added.is_object()) return config;
  for (const auto& [key, value] : added.items()) {
    StatedAddedToken stated;
    const bool digits = !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == key.npos;
    if (!digits) return Errorf("added_tokens_decoder has the key \"{}\", which is no id", key);
    stated.id = std::stoi(key);
    stated.token.content = TokenContent(value);
    config.added_tokens_decoder.push_back(std::move(stated));
  }
  return config;
}

template <typename T>
Result<T> ReadAndParse(const std::string& path, Result<T> (*parse)(const std::string&)) {
  auto text = ReadFile(path);
  if (!text.ok()) return Errorf("{} {}", path, text.error().message);
  auto parsed = parse(*text);
  if (!parsed.ok()) return Errorf("{}: {}", path, parsed.error().message);
  return parsed;
}

}  // namespace

Result<TokenizerFile> ReadTokenizerFile(const std::string& path) { return ReadAndParse(path, ParseTokenizerFile); }

Result<TokenizerConfig> ReadTokenizerConfig(const std::string& path) {
  return ReadAndParse(path, ParseTokenizerConfig);
}

}  // namespace minimo
