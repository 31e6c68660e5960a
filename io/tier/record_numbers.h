/* io/tier/record_numbers.h: which records of a file are free; the lowest goes first, so that what is in use
 * lies at the beginning of the file. Local. */
#pragma once

typedef struct record_numbers {
    int n_all;  /* numbers are [0, n_all) */
    int n_ever; /* [0, n_ever) were taken at some time, and */
    int n_free; /* so many of them are free again: */
    int *free;  /* a heap, the lowest at its top */
} record_numbers;

/* Zeroed but for n_all, it has taken none; -1: all are taken. */
int record_numbers_take(record_numbers *numbers);
void record_numbers_give_back(record_numbers *numbers, int number);
void record_numbers_release(record_numbers *numbers);
