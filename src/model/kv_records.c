#include "src/model/kv_records.h"

#include <stddef.h>

static int take(void *self) {
    return self ? page_file_take(self) : -1;
}

static void give_back(void *self, int record) {
    page_file_give_back(self, record);
}

static page_file_ticket begin_write(void *self, int record, const void *frame) {
    return page_file_begin_write(self, record, frame);
}

static page_file_ticket begin_read(void *self, int record, void *frame) {
    return page_file_begin_read(self, record, frame);
}

static bool test(void *self, page_file_ticket ticket) {
    return page_file_test(self, ticket);
}

static status wait(void *self, page_file_ticket ticket, double seconds) {
    return page_file_wait(self, ticket, seconds);
}

/* The file has threads of its own, and all its records are alike. */
static void do_nothing(void *self) {
    (void)self;
}

static void measure(void *self, kv_figures *out) {
    *out = (kv_figures){0};
    if (self) out->disk = page_file_measure(self);
}

kv_records kv_records_of_file(page_file *f) {
    return (kv_records){f,    take, give_back,  begin_write, begin_read,
                        test, wait, do_nothing, do_nothing,  measure};
}
