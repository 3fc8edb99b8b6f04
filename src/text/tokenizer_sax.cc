#include "text/tokenizer_sax.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"

namespace minimo {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr uint64_t kMaxTokenId = (1 << 24) - 1;  // far beyond any vocabulary; bounds the tables indexed by id

// A value of the part that becomes a tree goes into the innermost open container, stack_.back(). While in the
// vocabulary or the merges, values go to `model` instead.
class Handler : public Json::json_sax_t {
 public:
  Handler(BpeSpec* model, Json* rest) : model_(model), rest_(rest) {}
  const std::string& fault() const { return fault_; }

  bool null() override { return Value(nullptr); }
  bool boolean(bool value) override { return Value(value); }
  bool number_integer(number_integer_t value) override { return Value(value); }
  bool number_float(number_float_t value, const string_t&) override { return Value(value); }
  bool binary(binary_t&) override { return Fail("holds binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (part_ != Part::kVocab) return Value(value);
    if (value > kMaxTokenId) return Fail(fmt::format("model.vocab gives \"{}\" the absurd id {}", token_, value));
    model_->tokens.Add(token_);
    model_->token_ids.push_back(static_cast<int32_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (part_ == Part::kMerges) return LegacyMerge(value);
    if (part_ != Part::kMergePair) return Value(std::move(value));
    model_->merges.Add(value);
    ++pair_size_;
    return true;
  }

  bool key(string_t& name) override {
    (part_ == Part::kVocab ? token_ : key_) = name;
    return true;
  }

  bool start_object(size_t) override {
    if (part_ == Part::kTree && AtModel() && key_ == "vocab") {
      part_ = Part::kVocab;
      return TreeValue(true) != nullptr;
    }
    return Open(Json::object());
  }

  bool end_object() override {
    if (part_ == Part::kVocab) {
      part_ = Part::kTree;
      return true;
    }
    return Close();
  }

  bool start_array(size_t) override {
    if (part_ == Part::kMerges) {
      part_ = Part::kMergePair;
      pair_size_ = 0;
      return true;
    }
    if (part_ == Part::kTree && AtModel() && key_ == "merges") {
      part_ = Part::kMerges;
      return TreeValue(true) != nullptr;
    }
    return Open(Json::array());
  }

  bool end_array() override {
    if (part_ == Part::kMergePair) {
      part_ = Part::kMerges;
      return pair_size_ == 2 || Fail(fmt::format("model.merges has an entry of {} tokens, not 2", pair_size_));
    }
    if (part_ == Part::kMerges) {
      part_ = Part::kTree;
      return true;
    }
    return Close();
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(fmt::format("is not valid JSON, or is cut short: stopped at byte {}", position));
  }

 private:
  enum class Part { kTree, kVocab, kMerges, kMergePair };

  bool Fail(std::string fault) {
    if (fault_.empty()) fault_ = std::move(fault);
    return false;
  }

  // True directly inside /model.
  bool AtModel() const { return stack_.size() == 2 && stack_[0]->is_object() && model_key_ && stack_[1]->is_object(); }

  Json* TreeValue(Json value) {
    if (stack_.empty()) return &(*rest_ = std::move(value));
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool Value(Json value) {
    if (part_ == Part::kVocab) return Fail(fmt::format("model.vocab gives \"{}\" an id that is no number", token_));
    if (part_ != Part::kTree) return Fail("model.merges has an entry that is neither a string nor a pair of them");
    TreeValue(std::move(value));
    return true;
  }

  bool Open(Json container) {
    if (part_ != Part::kTree) return Value(nullptr);
    if (stack_.size() == kMaxDepth) return Fail(fmt::format("is nested deeper than {} levels", kMaxDepth));
    if (stack_.size() == 1) model_key_ = key_ == "model";
    stack_.push_back(TreeValue(std::move(container)));
    return true;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  bool LegacyMerge(std::string_view line) {
    if (line.starts_with("#version")) return true;
    const size_t space = line.find(' ');
    if (space == line.npos || line.find(' ', space + 1) != line.npos) {
      return Fail(fmt::format("model.merges has \"{}\", which is not two tokens with a space between", line));
    }
    model_->merges.Add(line.substr(0, space));
    model_->merges.Add(line.substr(space + 1));
    return true;
  }

  BpeSpec* model_;
  Json* rest_;
  std::vector<Json*> stack_;
  Part part_ = Part::kTree;
  bool model_key_ = false;  // the container at depth 2 is /model
  std::string key_, token_;
  int pair_size_ = 0;
  std::string fault_;
};

}  // namespace

Status ParseTokenizerJson(std::string_view text, BpeSpec* model, nlohmann::json* rest) {
  Handler handler(model, rest);
  try {
    if (Json::sax_parse(text.begin(), text.end(), &handler)) return {};
  } catch (const std::exception& e) {
    return Errorf("cannot be read: {}", e.what());
  }
  return Errorf("{}", handler.fault().empty() ? "is not valid JSON" : handler.fault());
}

}  // namespace minimo
