#!/bin/sh
# Answers the calls that Snakemake makes of conda. An environment it creates holds one program: a python that notes the
# environment's name and PYTHONPATH, and hands over to the Python of the tests (STAND_IN_PYTHON).
case "$1" in
    info) echo "{\"conda_prefix\": \"$(cd "$(dirname "$0")/.." && pwd)\", \"platform\": \"linux-64\"}" ;;
    --version) echo "conda 26.1.0" ;;
    config) echo '{"get": {"channel_priority": "strict"}}' ;;
    env | create)
        for word in "$@"; do
            [ "$previous" = --prefix ] && prefix=$word
            [ "$previous" = --file ] && file=$word
            previous=$word
        done
        mkdir -p "$prefix/bin"
        cat > "$prefix/bin/python" << PYTHON
#!/bin/sh
head -n 1 "$file" >> environments.txt
exec "$STAND_IN_PYTHON" "\$@"
PYTHON
        chmod +x "$prefix/bin/python"
        ;;
esac
