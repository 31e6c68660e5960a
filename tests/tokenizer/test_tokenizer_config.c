/* tests/tokenizer/test_tokenizer_config.c: which tokens stand around a prompt: by tokenizer.json, by
 * tokenizer_config.json beside it, and when the prompt has them itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "src/base/notice.h"
#include "src/tokenizer/config.h"
#include "tests/fixtures/harness.h"

#define SPECIAL(name) "{\"SpecialToken\":{\"id\":\"" name "\",\"type_id\":0}}"
#define TEXT          "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TEMPLATE(items)                                                                                      \
    "{\"type\":\"TemplateProcessing\",\"single\":[" items "],\"pair\":[],\"special_tokens\":{"               \
    "\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]},"                                             \
    "\"</s>\":{\"id\":\"</s>\",\"ids\":[2],\"tokens\":[\"</s>\"]}}}"

static const char no_template[] = "null", only_text[] = TEMPLATE(TEXT),
                  with_begin[] = TEMPLATE(SPECIAL("<s>") "," TEXT),
                  with_both[] = TEMPLATE(SPECIAL("<s>") "," TEXT "," SPECIAL("</s>"));

/* marks.json with this post-processor. */
static tokenizer *open_marks(const char *post_processor) {
    char path[1024];
    size_t n;
    tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/marks.json", harness_source_dir());
    char *text = harness_read_file(path, &n);
    cJSON *json = cJSON_Parse(text);
    cJSON_ReplaceItemInObjectCaseSensitive(json, "post_processor", cJSON_Parse(post_processor));
    free(text);
    text = cJSON_PrintUnformatted(json);
    CHECK_OK(tokenizer_parse(text, strlen(text), "marks", &tok));
    free(text);
    cJSON_Delete(json);
    return tok;
}

/* Was a notice given since there were n_before, and does it hold this part? NULL: none was. */
static bool noticed(int n_before, const char *part) {
    if (!part) return notice_count() == n_before;
    return notice_count() == n_before + 1 && strstr(notice_text(n_before), part);
}

/* ---- tokenizer_config.json ---- */

/* post_processor; the class and the flags as in the file ("" for none): the begin and end token, and the
 * notice. Where there is a notice, releases of transformers disagree: 4.57.6 and 5.24.0 were asked for all of
 * these. */
static const struct {
    const char *post_processor, *members;
    int32_t begin, end;
    const char *notice;
} cases[] = {
    {no_template, "\"tokenizer_class\":\"LlamaTokenizerFast\",\"add_bos_token\":true", 1, -1,
     "add_bos_token puts <s>"},
    {no_template, "\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true", 1, -1,
     "add_bos_token puts <s>"},
    {only_text, "\"tokenizer_class\":\"GemmaTokenizerFast\",\"add_bos_token\":true", 1, -1,
     "add_bos_token puts <s>"},
    {no_template, "\"add_bos_token\":true", 1, -1, "add_bos_token puts <s>"},
    {with_begin, "\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true,\"add_eos_token\":false", 1,
     -1, NULL},
    {with_begin, "\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true,\"add_eos_token\":true", 1, 2,
     "add_eos_token puts </s> behind"},
    {with_begin, "\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false", 1, -1,
     "add_bos_token is false"},
    {no_template, "\"tokenizer_class\":\"LlamaTokenizer\"", -1, -1, "none is put"},
    {no_template, "\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false", -1, -1, NULL},
    {with_begin, "\"tokenizer_class\":\"LlamaTokenizer\"", 1, -1, NULL},
    {no_template, "\"tokenizer_class\":\"CodeLlamaTokenizer\"", 1, -1, NULL},
    /* Classes without these flags. */
    {no_template, "\"tokenizer_class\":\"Qwen2Tokenizer\",\"add_bos_token\":false", -1, -1, NULL},
    {no_template, "\"tokenizer_class\":\"Qwen2Tokenizer\",\"add_bos_token\":true", -1, -1, NULL},
    {with_begin, "\"tokenizer_class\":\"Qwen2TokenizerFast\",\"add_bos_token\":false", 1, -1, NULL},
    {with_begin, "\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":false", 1, -1, NULL},
    {no_template, "\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"add_bos_token\":true", -1, -1, NULL},
    {no_template, "\"tokenizer_class\":\"LlamaTokenizersAnew\",\"add_bos_token\":true", -1, -1, NULL},
    {no_template, "\"model_max_length\":1000000000000000019884624838656", -1, -1, NULL},
    /* Another begin token, as a text or an object; one that is not there. */
    {no_template, "\"add_bos_token\":true,\"bos_token\":\"</s>\"", 2, -1, "add_bos_token puts </s>"},
    {no_template, "\"add_bos_token\":true,\"bos_token\":{\"__type\":\"AddedToken\",\"content\":\"<unk>\"}", 0,
     -1, "add_bos_token puts <unk>"},
    {no_template, "\"add_bos_token\":true,\"bos_token\":\"<none>\"", -1, -1,
     "<none> is not in tokenizer.json"},
    {no_template, "\"add_bos_token\":true,,", -1, -1, "not read: "},
};

/* The file with these members, in a directory of its own, so that a notice that names it is a new one. */
static void apply_config(const char *members, tokenizer *tok, size_t i) {
    char dir[1024], path[1100], text[1024];
    snprintf(dir, sizeof dir, "%s/%zu", harness_temp_dir(), i);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    snprintf(text, sizeof text, "{%s}", members);
    CU_ASSERT(mkdir(dir, 0777) == 0);
    harness_write_file(path, text, strlen(text));
    tokenizer_config_apply(dir, tok);
    CU_ASSERT(unlink(path) == 0 && rmdir(dir) == 0);
}

static void test_flags(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *tok = open_marks(cases[i].post_processor);
        int n_before = notice_count();
        apply_config(cases[i].members, tok, i);
        int32_t begin = tokenizer_begin_token(tok), end = tokenizer_end_token(tok);
        bool good = begin == cases[i].begin && end == cases[i].end && noticed(n_before, cases[i].notice);
        CU_ASSERT(good);
        if (!good)
            printf("case %zu: %d and %d; %s\n", i, begin, end,
                   notice_count() > n_before ? notice_text(n_before) : "no notice");
        token_list ids = {0};
        CHECK_OK(tokenizer_encode(tok, "the", 3, true, &ids));
        CU_ASSERT(ids.n > 0 && (begin < 0 || ids.ids[0] == begin) && (end < 0 || ids.ids[ids.n - 1] == end));
        free(ids.ids);
        tokenizer_close(tok);
    }
}

static void test_no_file(void) {
    char dir[1024];
    snprintf(dir, sizeof dir, "%s/none", harness_temp_dir());
    tokenizer *tok = open_marks(no_template);
    int n_before = notice_count();
    tokenizer_config_apply(dir, tok);
    CU_ASSERT(tokenizer_begin_token(tok) == -1 && noticed(n_before, NULL));
    tokenizer_close(tok);
}

/* ---- a prompt that has them itself ---- */

static void check_prompt(const char *post_processor, const char *text, const char *as_if, bool says) {
    tokenizer *tok = open_marks(post_processor);
    token_list got = {0}, expected = {0};
    CHECK_OK(tokenizer_encode_prompt(tok, text, strlen(text), &got));
    CHECK_OK(tokenizer_encode(tok, as_if, strlen(as_if), false, &expected));
    bool same = got.n == expected.n && !memcmp(got.ids, expected.ids, got.n * sizeof *got.ids);
    CU_ASSERT(same);
    if (!same) printf("%s: %zu tokens, not %zu\n", text, got.n, expected.n);
    if (says) CU_ASSERT(notice_count() > 0 && strstr(notice_text(notice_count() - 1), "not put there again"));
    free(got.ids);
    free(expected.ids);
    tokenizer_close(tok);
}

static void test_rendered(void) {
    check_prompt(with_begin, "<s> the", "<s> the", true);
    check_prompt(with_begin, "<s>", "<s>", true);
    check_prompt(with_begin, "<s><s> the", "<s><s> the", true);
    check_prompt(with_begin, "</s> the", "<s></s> the", false);
    check_prompt(with_both, "<s> the</s>", "<s> the</s>", true);
    check_prompt(with_both, "<s> the</s> the", "<s> the</s> the</s>", true);
    check_prompt(with_both, "</s>", "<s></s>", true);
    check_prompt(no_template, "<s> the", "<s> the", false);
    check_prompt(only_text, "<s> the", "<s> the", false);
}

/* ---- pieces ---- */

static void test_pieces(void) {
    static const struct {
        const char *file, *token, *piece;
    } pieces[] = {{"marks", "<s>", "<s>"},       {"marks", "<0x0A>", "\n"},
                  {"marks", "<0xE4>", "\xE4"},   {"marks", "\xE2\x96\x81the", "\xE2\x96\x81the"},
                  {"bytes", "\xC3\xA4", "\xE4"}, {"bytes", "\xC4\xA0", " "},
                  {"bytes", "[tool]", "[tool]"}, {"pieces", " ", " "}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char path[1024];
        tokenizer *tok = NULL;
        text_buffer got = {0};
        snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s.json", harness_source_dir(),
                 pieces[i].file);
        if (!CHECK_OK(tokenizer_open(path, &tok))) continue;
        int32_t id = tokenizer_find(tok, pieces[i].token);
        tokenizer_append_piece(tok, id, &got);
        CU_ASSERT(id >= 0 && got.n == strlen(pieces[i].piece) && !memcmp(got.data, pieces[i].piece, got.n));
        free(got.data);
        tokenizer_close(tok);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"flags of tokenizer_config.json", test_flags},
                           {"no tokenizer_config.json", test_no_file},
                           {"a prompt with its own", test_rendered},
                           {"pieces", test_pieces},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "tokenizer config", tests);
}
