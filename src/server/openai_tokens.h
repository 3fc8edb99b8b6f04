// GET /v1/models, POST /tokenize and /detokenize (vLLM's).
#pragma once

#include "server/http_types.h"

namespace minimo::server {

struct ApiContext;

void HandleModels(const ApiContext& context, HttpRequest&& request, ReplyPtr reply);
void HandleTokenize(const ApiContext& context, HttpRequest&& request, ReplyPtr reply);
void HandleDetokenize(const ApiContext& context, HttpRequest&& request, ReplyPtr reply);

}  // namespace minimo::server
