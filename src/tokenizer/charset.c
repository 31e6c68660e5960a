#include "src/tokenizer/charset.h"

#include <stdlib.h>
#include <string.h>

#include "src/tokenizer/unicode.h"

enum { MAX_RANGES = 2048 }; /* the largest classes have 900 */

/* Ranges of code points as the library writes them: their number, then the first and last of each. */
typedef struct class_ranges {
    OnigCodePoint n;
    struct {
        OnigCodePoint first, last;
    } items[MAX_RANGES];
} class_ranges;

static int ctype_of(const char *name) {
    return ONIG_ENCODING_UTF8->property_name_to_ctype(ONIG_ENCODING_UTF8, (OnigUChar *)name,
                                                      (OnigUChar *)name + strlen(name));
}

/* Before 6.9.9 \p{Punct}, which is \p{P}, was the same class as [[:punct:]]. */
static int name_to_ctype(OnigEncoding encoding, OnigUChar *name, OnigUChar *end) {
    bool is_punct = end - name == 5 &&
                    ONIG_ENCODING_UTF8->property_name_to_ctype(encoding, name, end) == ONIGENC_CTYPE_PUNCT;
    return is_punct ? ctype_of("P") : ONIG_ENCODING_UTF8->property_name_to_ctype(encoding, name, end);
}

static int is_code_ctype(OnigCodePoint code, OnigCtype ctype) {
    return ONIG_ENCODING_UTF8->is_code_ctype(unicode_older_alike(code), ctype);
}

static int add_library_ranges(class_ranges *ranges, OnigCtype ctype) {
    OnigCodePoint sb_out;
    const OnigCodePoint *known;
    int rc = ONIG_ENCODING_UTF8->get_ctype_code_range(ctype, &sb_out, &known);
    if (rc != ONIG_NORMAL) return rc;
    if (ranges->n + known[0] > MAX_RANGES) return ONIGERR_TOO_MANY_MULTI_BYTE_RANGES;
    memcpy(ranges->items + ranges->n, known + 1, known[0] * sizeof ranges->items[0]);
    ranges->n += known[0];
    return ONIG_NORMAL;
}

static int compare_ranges(const void *a, const void *b) {
    OnigCodePoint left = *(const OnigCodePoint *)a, right = *(const OnigCodePoint *)b;
    return (left > right) - (left < right);
}

/* In order, and none touching another. */
static void join_ranges(class_ranges *ranges) {
    qsort(ranges->items, ranges->n, sizeof ranges->items[0], compare_ranges);
    OnigCodePoint n = 0;
    for (OnigCodePoint i = 0; i < ranges->n; i++) {
        if (n == 0 || ranges->items[i].first > ranges->items[n - 1].last + 1)
            ranges->items[n++] = ranges->items[i];
        else if (ranges->items[i].last > ranges->items[n - 1].last)
            ranges->items[n - 1].last = ranges->items[i].last;
    }
    ranges->n = n;
}

static bool holds(const class_ranges *ranges, OnigCodePoint code) {
    OnigCodePoint low = 0, high = ranges->n;
    while (low < high) {
        OnigCodePoint middle = (low + high) / 2;
        if (code > ranges->items[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ranges->n && code >= ranges->items[low].first;
}

static int add_range(class_ranges *ranges, OnigCodePoint first, OnigCodePoint last) {
    if (first > last) return ONIG_NORMAL;
    if (ranges->n == MAX_RANGES) return ONIGERR_TOO_MANY_MULTI_BYTE_RANGES;
    ranges->items[ranges->n].first = first;
    ranges->items[ranges->n++].last = last;
    return ONIG_NORMAL;
}

/* The newer characters, which to the library are not assigned, go to where those that are alike stand. */
static int place_newer(const class_ranges *known, class_ranges *out) {
    OnigCodePoint first, last;
    int rc = ONIG_NORMAL;
    out->n = 0;
    for (OnigCodePoint i = 0; rc == ONIG_NORMAL && i < known->n; i++) {
        OnigCodePoint from = known->items[i].first, to = known->items[i].last;
        for (size_t k = 0; rc == ONIG_NORMAL && unicode_newer_range(k, &first, &last) && first <= to; k++) {
            if (last < from) continue;
            if (first > from) rc = add_range(out, from, first - 1);
            from = last + 1;
        }
        if (rc == ONIG_NORMAL) rc = add_range(out, from, to);
    }
    for (size_t k = 0; rc == ONIG_NORMAL && unicode_newer_range(k, &first, &last); k++)
        if (holds(known, unicode_older_alike(first))) rc = add_range(out, first, last);
    join_ranges(out);
    return rc;
}

/* The caller copies the ranges before it asks again, and no context comes with its question. */
static int get_ctype_code_range(OnigCtype ctype, OnigCodePoint *sb_out, const OnigCodePoint *out[]) {
    static _Thread_local class_ranges ranges;
    class_ranges known = {.n = 0};
    int rc = add_library_ranges(&known, ctype);
    if (rc == ONIG_NORMAL && ctype == ONIGENC_CTYPE_PUNCT)
        rc = add_library_ranges(&known, (OnigCtype)ctype_of("S"));
    join_ranges(&known);
    if (rc == ONIG_NORMAL) rc = place_newer(&known, &ranges);
    *sb_out = 0x80;
    *out = &ranges.n;
    return rc;
}

OnigEncodingType charset_utf8(void) {
    OnigEncodingType encoding = *ONIG_ENCODING_UTF8;
    encoding.property_name_to_ctype = name_to_ctype;
    encoding.is_code_ctype = is_code_ctype;
    encoding.get_ctype_code_range = get_ctype_code_range;
    return encoding;
}
