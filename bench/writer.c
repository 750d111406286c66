/* writer.c - batches and their cursor; see bench.h. */
#include "bench.h"

void writer_init(struct writer *writer, struct bench *bench, struct engine_session *session, size_t batch) {
    *writer = (struct writer){.bench = bench, .session = session, .capacity = batch};
    writer->updates = engine_new(batch * sizeof *writer->updates);
    writer->numbers = engine_new(batch * sizeof *writer->numbers);
    writer->generations = engine_new(batch);
    writer->keys = engine_new(batch * LOAD_KEY_BYTES_MAX);
    writer->values = engine_new(batch * (bench->load.value_bytes + 8) + 8);
    writer->latencies = engine_new(sizeof *writer->latencies);
}

void writer_fini(struct writer *writer) {
    free(writer->updates);
    free(writer->numbers);
    free(writer->generations);
    free(writer->keys);
    free(writer->values);
    free(writer->latencies);
}

void writer_flush(struct writer *writer) {
    struct bench *bench = writer->bench;
    if (writer->count == 0) {
        return;
    }
    uint64_t position = atomic_load(&bench->shared->cursor) + 1;
    uint64_t before = measure_wall();
    bench->engine->apply(writer->session, writer->updates, writer->count, (struct slice){&position, sizeof position});
    uint64_t after = measure_wall();
    atomic_store(&bench->shared->cursor, position);
    for (size_t i = 0; i < writer->count; i++) {
        load_generation_set(&bench->load, writer->numbers[i], writer->generations[i]);
    }
    histogram_add(writer->latencies, after - before);
    if (writer->timeline != NULL) {
        timeline_add(writer->timeline, after, after - before, writer->count);
    }
    writer->count = 0;
}

static struct engine_update *writer_next(struct writer *writer, uint64_t number, unsigned generation) {
    const struct load *load = &writer->bench->load;
    struct engine_update *update = &writer->updates[writer->count];
    writer->numbers[writer->count] = number;
    writer->generations[writer->count] = (uint8_t)generation;
    update->key = load_key(load, number, writer->keys + writer->count * LOAD_KEY_BYTES_MAX);
    update->deletes = generation == 0;
    writer->updates_total++;
    writer->bytes_total += update->key.bytes;
    return update;
}

static void writer_added(struct writer *writer) {
    if (++writer->count == writer->capacity) {
        writer_flush(writer);
    }
}

void writer_put(struct writer *writer, uint64_t number) {
    const struct load *load = &writer->bench->load;
    unsigned generation = load_next_generation(load_generation(load, number));
    struct engine_update *update = writer_next(writer, number, generation);
    update->value = load_value(load, number, generation, writer->values + writer->count * (load->value_bytes + 8));
    writer->bytes_total += update->value.bytes;
    writer_added(writer);
}

void writer_delete(struct writer *writer, uint64_t number) {
    struct engine_update *update = writer_next(writer, number, 0);
    update->value = (struct slice){NULL, 0};
    writer_added(writer);
}
