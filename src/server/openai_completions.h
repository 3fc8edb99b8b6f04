// POST /v1/completions (OpenAI's legacy text completions, with vLLM's extra fields).
#pragma once

#include "server/http_types.h"

namespace minimo::server {

struct ApiContext;

void HandleCompletions(const ApiContext& context, HttpRequest&& request, ReplyPtr reply);

}  // namespace minimo::server
