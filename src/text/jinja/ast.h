// What a template says, as a tree. One struct for expressions and one for statements; a kind uses the fields that
// its line below names. A Tree owns all nodes flat, so that deep trees are freed without recursion.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace minimo::jinja {

struct Expr;

struct CallArgs {
  std::vector<const Expr*> positional;
  std::vector<std::pair<std::string, const Expr*>> keyword;
  const Expr* star = nullptr;       // *args
  const Expr* star_star = nullptr;  // **kwargs
};

enum class BinaryOp { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp { kEq, kNe, kGt, kGe, kLt, kLe, kIn, kNotIn };

struct Expr {
  enum class Kind {
    kConst,         // constant
    kName,          // text
    kNamespaceRef,  // text.attribute; only as the target of an assignment
    kList,          // items
    kTuple,         // items; also as a target
    kDict,          // items: key, value, key, value, ...
    kGetAttr,       // a.text
    kGetItem,       // a[b]
    kSlice,         // a:b:c, each may be null; only as the b of kGetItem
    kCall,          // a(args)
    kFilter,        // a|text(args); a is null for the body of a block
    kTest,          // a is text(args)
    kNot,
    kNeg,
    kPos,     // a
    kBinary,  // a binary_op b
    kAnd,
    kOr,         // a, b
    kCondition,  // b if a else c; c may be null
    kCompare,    // a ops[0] items[0] ops[1] items[1] ...
    kConcat,     // items joined by ~
  };
  Kind kind;
  int line = 0;
  std::string text;
  std::string attribute;
  Value constant;
  BinaryOp binary_op = BinaryOp::kAdd;
  const Expr* a = nullptr;
  const Expr* b = nullptr;
  const Expr* c = nullptr;
  std::vector<const Expr*> items;
  std::vector<CompareOp> ops;
  CallArgs args;
};

struct Stmt;
using Block = std::vector<const Stmt*>;

// The parameters of a macro or of a call block, and which of the implicit names its body mentions.
struct Signature {
  std::vector<std::string> names;
  std::vector<const Expr*> defaults;  // of the last names
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Stmt {
  enum class Kind {
    kText,         // text
    kPrint,        // a
    kIf,           // branches in order; a null test is the else
    kFor,          // target, a (iterable), b (test or null), body, else_body, recursive
    kSet,          // target, a
    kSetBlock,     // target, a (filters or null), body
    kMacro,        // text (name), signature, body
    kCallBlock,    // signature, a (the call), body
    kFilterBlock,  // a (filters), body
    kWith,         // targets, values, body
    kScope,        // body
    kBreak,
    kContinue,
    kFail,  // text (the error)
  };
  Kind kind;
  int line = 0;
  std::string text;
  const Expr* a = nullptr;
  const Expr* b = nullptr;
  const Expr* target = nullptr;
  std::vector<std::pair<const Expr*, Block>> branches;
  std::vector<const Expr*> targets;
  std::vector<const Expr*> values;
  Signature signature;
  Block body;
  Block else_body;
  bool recursive = false;
};

struct Tree {
  std::vector<std::unique_ptr<Expr>> exprs;
  std::vector<std::unique_ptr<Stmt>> stmts;
  Block body;
};

}  // namespace minimo::jinja
