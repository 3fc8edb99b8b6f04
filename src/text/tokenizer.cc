#include "minimo/tokenizer.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "text/byte_level.h"
#include "text/tokenizer_file.h"
#include "text/utf8.h"

namespace minimo {
namespace {

constexpr size_t kMaxText = size_t{1} << 30;  // bytes; indices in a word have 31 bits

// Tokens in a message may hold line breaks; a message is one line.
Error OneLine(Error error) {
  for (char& c : error.message) {
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return error;
}

struct TokenInfo {
  std::string text;   // as tokenizer.json writes it
  std::string bytes;  // as Decode writes it
  bool exists = false;
  bool added = false;
  bool special = false;  // left out with skip_special_tokens
};

}  // namespace

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<PostTemplate> post_templates;
  std::deque<TokenInfo> tokens;  // by id; a deque, so that growing moves none
  Bpe::TokenIds ids;             // views of tokens[].text
  std::unique_ptr<const Bpe> bpe;
  AddedTokenMatcher raw_tokens, normalized_tokens;
  std::optional<int32_t> bos_id, eos_id, pad_id;

  const TokenInfo* Find(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= tokens.size() || !tokens[id].exists) return nullptr;
    return &tokens[id];
  }

  Status Load(const std::string& folder);
  Status AddModel(const BpeSpec& model);
  Status AddTokens(const std::vector<StatedAddedToken>& stated_tokens, const std::string& path);
  Status ApplyConfig(const TokenizerConfig& config);
  Status EncodeText(std::string_view text, bool parse_special, std::vector<int32_t>* out) const;
};

Status Tokenizer::Impl::AddModel(const BpeSpec& model) {
  int32_t largest = -1;
  for (const int32_t id : model.token_ids) largest = std::max(largest, id);
  tokens.resize(static_cast<size_t>(largest) + 1);
  ids.reserve(model.tokens.size() * 2);
  for (size_t i = 0; i < model.tokens.size(); ++i) {
    const int32_t id = model.token_ids[i];
    TokenInfo& token = tokens[id];
    if (token.exists && token.text != model.tokens[i]) {
      return Errorf("model.vocab gives \"{}\" and \"{}\" the same id {}", token.text, model.tokens[i], id);
    }
    if (token.exists) continue;
    token.text = model.tokens[i];
    token.bytes = ByteLevelBytes(token.text);
    token.exists = true;
    if (!ids.emplace(token.text, id).second) return Errorf("model.vocab has \"{}\" twice", token.text);
  }
  MINIMO_ASSIGN(bpe, Bpe::Create(model, ids));
  return {};
}

// Ids are given as the library gives them: a token that the vocabulary has keeps its id, others are numbered on from
// the vocabulary's size, in order, whatever id the file states.
Status Tokenizer::Impl::AddTokens(const std::vector<StatedAddedToken>& stated_tokens, const std::string& path) {
  size_t next_id = ids.size();
  std::map<int32_t, AddedToken> added;
  std::unordered_set<std::string> special;
  for (const auto& [stated_id, token] : stated_tokens) {
    if (token.content.empty()) continue;
    if (token.special) special.insert(token.content);
    const auto known = ids.find(token.content);
    const size_t id = known != ids.end() ? static_cast<size_t>(known->second) : next_id++;
    if (id != static_cast<size_t>(stated_id)) {
      LogWarn("{}: added token \"{}\" states id {} but has {}", path, token.content, stated_id, id);
    }
    if (id >= tokens.size()) tokens.resize(id + 1);
    if (tokens[id].exists && tokens[id].text != token.content) {
      return Errorf("added token \"{}\" would take id {} from \"{}\"", token.content, id, tokens[id].text);
    }
    tokens[id].text = token.content;
    tokens[id].exists = tokens[id].added = true;
    ids.emplace(tokens[id].text, static_cast<int32_t>(id));
    added[static_cast<int32_t>(id)] = token;
  }
  for (auto& [id, token] : added) {
    // A normalized token is looked for, and decoded, in its normalized form; and special if that form is.
    std::string storage;
    std::string form(token.normalized ? normalizer.Apply(token.content, &storage) : token.content);
    tokens[id].bytes = ByteLevelBytes(form);
    tokens[id].special = special.contains(form);
    token.special = special.contains(token.content);
    (token.normalized ? normalized_tokens : raw_tokens).Add(token, std::move(form), id);
  }
  raw_tokens.Finish();
  normalized_tokens.Finish();
  return {};
}

Status Tokenizer::Impl::ApplyConfig(const TokenizerConfig& config) {
  for (const auto& [role, content] : config.special_tokens) {
    const auto it = ids.find(content);
    if (it == ids.end()) return Errorf("{} \"{}\" is not among the tokens of tokenizer.json", role, content);
    if (role == "bos_token") bos_id = it->second;
    if (role == "eos_token") eos_id = it->second;
    if (role == "pad_token") pad_id = it->second;
  }
  for (const auto& [id, token] : config.added_tokens_decoder) {
    const auto it = ids.find(token.content);
    if (it == ids.end()) return Errorf("added token \"{}\" is not among those of tokenizer.json", token.content);
    if (it->second != id) {
      return Errorf("added token \"{}\" has id {}, but {} in tokenizer.json", token.content, id, it->second);
    }
  }
  return {};
}

Status Tokenizer::Impl::EncodeText(std::string_view text, bool parse_special, std::vector<int32_t>* out) const {
  Bpe::Scratch scratch;
  Status status;
  std::string storage;
  const PreTokenizer::OnWord on_word = [&](std::string_view word) { bpe->Encode(word, &scratch, out); };
  const AddedTokenMatcher::OnToken on_token = [&](int32_t id) { out->push_back(id); };
  const AddedTokenMatcher::OnText on_normalized = [&](std::string_view plain) {
    if (status.ok()) status = pre_tokenizer.Split(plain, on_word);
  };
  const AddedTokenMatcher::OnText on_raw = [&](std::string_view plain) {
    normalized_tokens.Split(normalizer.Apply(plain, &storage), parse_special, on_normalized, on_token);
  };
  raw_tokens.Split(text, parse_special, on_raw, on_token);
  return status;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Status Tokenizer::Impl::Load(const std::string& folder) {
  namespace fs = std::filesystem;
  const std::string path = (fs::path(folder) / "tokenizer.json").string();
  MINIMO_ASSIGN(TokenizerFile file, ReadTokenizerFile(path));
  normalizer = std::move(file.normalizer);
  pre_tokenizer = std::move(file.pre_tokenizer);
  post_templates = std::move(file.post_templates);
  Status status = AddModel(file.model);
  if (status.ok()) status = AddTokens(file.added_tokens, path);
  if (!status.ok()) return Errorf("{}: {}", path, status.error().message);

  const std::string config_path = (fs::path(folder) / "tokenizer_config.json").string();
  std::error_code error;
  if (!fs::exists(config_path, error)) return {};
  MINIMO_ASSIGN(const TokenizerConfig config, ReadTokenizerConfig(config_path));
  status = ApplyConfig(config);
  if (!status.ok()) return Errorf("{}: {}", config_path, status.error().message);
  return {};
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromFolder(const std::string& folder) {
  auto impl = std::make_unique<Impl>();
  const Status status = impl->Load(folder);
  if (!status.ok()) return OneLine(status.error());
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxText) return Errorf("the text has {} bytes; at most {} can be encoded", text.size(), kMaxText);
  std::vector<int32_t> ids;
  if (IsValidUtf8(text)) {
    MINIMO_TRY(impl_->EncodeText(text, options.parse_special_tokens, &ids));
  } else {
    MINIMO_TRY(impl_->EncodeText(ToValidUtf8(text), options.parse_special_tokens, &ids));
  }
  for (const PostTemplate& post_template : impl_->post_templates) {
    std::vector<int32_t> all;
    for (const TemplatePiece& piece : post_template) {
      if (!piece.is_text && !options.add_special_tokens) continue;
      const std::vector<int32_t>& part = piece.is_text ? ids : piece.ids;
      all.insert(all.end(), part.begin(), part.end());
    }
    ids = std::move(all);
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const TokenInfo* token = impl_->Find(id);
    if (token != nullptr && !(skip_special_tokens && token->special)) bytes.append(token->bytes);
  }
  return IsValidUtf8(bytes) ? bytes : ToValidUtf8(bytes);
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto it = impl_->ids.find(token);
  return it == impl_->ids.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

std::optional<std::string_view> Tokenizer::IdToToken(int32_t id) const {
  const TokenInfo* token = impl_->Find(id);
  return token == nullptr ? std::nullopt : std::optional<std::string_view>(token->text);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  const TokenInfo* token = impl_->Find(id);
  return token == nullptr ? std::string_view() : token->bytes;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const TokenInfo* token = impl_->Find(id);
  return token != nullptr && token->special;
}

bool Tokenizer::IsAdded(int32_t id) const {
  const TokenInfo* token = impl_->Find(id);
  return token != nullptr && token->added;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return impl_->pad_id; }

}  // namespace minimo
